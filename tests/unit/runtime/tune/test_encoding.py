# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which tokens count for the loss, with a tokenizer of which every character is a token."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from kaito.runtime.demo_text import CHAT_TEMPLATE
from kaito.runtime.failure import Failed
from kaito.runtime.tune.encoding import Encoder, labels_of
from kaito.runtime.tune.examples import Example

jinja2 = pytest.importorskip("jinja2")
USER, ASSISTANT = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}


class Letters:
    """A tokenizer of letters, with the chat template of Phi-3."""

    eos_token, eos_token_id, is_fast = "#", 35, True
    chat_template: Any = CHAT_TEMPLATE

    def __call__(self, text: list[str], **options: Any) -> dict[str, Any]:
        begin = "^" if options["add_special_tokens"] else ""
        offsets = [[(0, 0)] * len(begin) + [(n, n + 1) for n in range(len(one))] for one in text]
        return {"input_ids": [[ord(c) for c in begin + one] for one in text], "offset_mapping": offsets}

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> str:
        template = jinja2.Template(self.chat_template)
        rendered: str = template.render(messages=conversation, eos_token=self.eos_token, **options)
        return rendered


def learned(example: Example, *, assistant_only: bool = True, template: str = CHAT_TEMPLATE) -> str:
    letters = Letters()
    letters.chat_template = template
    (encoded,) = Encoder(letters, assistant_only).encode([example])
    assert len(encoded.input_ids) == len(encoded.labels)
    return "".join(chr(label) if label >= 0 else "_" for label in encoded.labels).strip("_")


def test_of_a_conversation_only_the_assistant_counts() -> None:
    assert learned(Example(messages=(USER, ASSISTANT))) == "So.<|end|>\n#"
    twice = learned(Example(messages=(USER, ASSISTANT, USER, ASSISTANT)))
    assert twice.replace("_", "") == "So.<|end|>\nSo.<|end|>\n#"


def test_without_the_option_all_of_a_conversation_counts() -> None:
    assert learned(Example(messages=(USER, ASSISTANT)), assistant_only=False).startswith("<|user|>\nWhy?")


def test_a_prompt_in_messages_is_context() -> None:
    whole = Example(messages=(USER, ASSISTANT, USER, ASSISTANT), learn_from=3)
    assert learned(whole, assistant_only=False) == "So.<|end|>\n#"


CHATML = (
    "{% for m in messages %}<|im-start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}({{ c.function.arguments.city }})</call>{% endfor %}"
    "<|im-end|>\n{% endfor %}{% if add_generation_prompt %}<|im-start|>assistant\n{% endif %}"
)
TOOLS = "{% if tools %}[TOOLS]{% for t in tools %}{{ t.function.name }}{% endfor %}[/TOOLS]\n{% endif %}"
INST = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<s>You are kind.</s>{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
THINKING = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}{{ m.content }}"
    "{% else %}{{ m.content.split('</think>')[-1] }}{% endif %}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""Leaves out what was thought in earlier turns."""
THOUGHT = {"role": "assistant", "content": "hm</think>So."}
TWICE = (USER, ASSISTANT, USER, {"role": "assistant", "content": "Once more."})


@pytest.mark.parametrize(
    ("template", "messages", "expected"),
    [
        (CHATML, TWICE, "So.<|im-end|>\n|Once more.<|im-end|>\n"),
        (INST, TWICE, " So.#| Once more.#"),
        (DEFAULT_SYSTEM, TWICE, "So.</assistant>|Once more.</assistant>"),
        (DEFAULT_SYSTEM, ({"role": "system", "content": "Be."}, *TWICE), "So.</assistant>|Once more.</assistant>"),
        (
            THINKING,
            (USER, THOUGHT, USER, THOUGHT),
            "hm</think>So.</assistant>",
        ),
    ],
    ids=["chatml", "inst", "default system", "own system", "thinking"],
)
def test_templates_without_marks_for_the_assistant_are_masked_right(
    template: str, messages: tuple[Any, ...], expected: str
) -> None:
    assert re.sub("_+", "|", learned(Example(messages=messages), template=template)) == expected


def test_calls_of_tools_are_learned_and_what_tools_say_is_not() -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    messages = (
        USER,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "Sun."},
        ASSISTANT,
    )
    tools = json.dumps([{"type": "function", "function": {"name": "weather"}}])
    found = learned(Example(messages=messages, tools=tools), template=TOOLS + CHATML)
    assert re.sub("_+", "|", found) == "<call>weather(Rome)</call><|im-end|>\n|So.<|im-end|>\n"
    whole = learned(Example(messages=messages, tools=tools), template=TOOLS + CHATML, assistant_only=False)
    assert whole.startswith("[TOOLS]weather[/TOOLS]")


def test_completions_and_texts_end_with_the_end() -> None:
    assert learned(Example(prompt="1+1=", completion="2")) == "2#"
    assert learned(Example(text="a b")) == "^a b#"


def test_a_model_without_a_template_cannot_learn_conversations() -> None:
    letters = Letters()
    letters.chat_template = None
    with pytest.raises(Failed, match="no chat template"):
        list(Encoder(letters, True).encode([Example(messages=(USER, ASSISTANT))]))


def test_a_token_counts_when_it_ends_in_a_span() -> None:
    offsets = [(0, 0), (0, 3), (3, 7), (7, 9), (9, 12)]
    assert labels_of([1, 2, 3, 4, 5], offsets, [(5, 9)]) == [-100, -100, 3, 4, -100]
