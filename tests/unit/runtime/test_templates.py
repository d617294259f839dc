# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The chat templates that the runtime ships: each family's markers, and calls as its parser reads them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kaito.runtime.serve.prepare import TEMPLATES

TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
CALL = {"function": {"name": "now", "arguments": {"zone": "UTC"}}}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What time is it?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "12:00"},
    {"role": "assistant", "content": "<think>easy</think>Noon."},
    {"role": "user", "content": "Thanks."},
]
PLAIN = [message for message in TALK if message["role"] in ("system", "user")][:2]


def rendered(name: str, messages: list[dict[str, Any]], tools: Any = None) -> str:
    """As transformers and vLLM render it."""

    def refuse(message: str) -> str:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = refuse
    template = environment.from_string((TEMPLATES / name).read_text("utf-8"))
    return template.render(
        messages=messages, tools=tools, bos_token="<s>", eos_token="</s>", add_generation_prompt=True
    )


PLAIN_PROMPTS = {
    "tool-chat-hermes.jinja": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat time is it?<|im_end|>\n"
    "<|im_start|>assistant\n",
    "tool-chat-llama3.1-json.jinja": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhat time is it?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "tool-chat-phi4-mini.jinja": "<|system|>Be brief.<|end|><|user|>What time is it?<|end|><|assistant|>",
    "tool-chat-deepseekr1.jinja": "<s>Be brief.<｜User｜>What time is it?<｜Assistant｜><think>\n",
    "tool-chat-deepseekv3.jinja": "<s>Be brief.<｜User｜>What time is it?<｜Assistant｜>",
    "llama-3-instruct.jinja": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhat time is it?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral-instruct.jinja": "<s>[INST] Be brief.\n\nWhat time is it? [/INST]",
}


def test_every_template_is_tested() -> None:
    assert {file.name for file in TEMPLATES.glob("*.jinja")} == set(PLAIN_PROMPTS)


@pytest.mark.parametrize(("name", "expected"), PLAIN_PROMPTS.items())
def test_a_question_is_written_in_the_familys_way(name: str, expected: str) -> None:
    assert rendered(name, PLAIN) == expected


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("tool-chat-hermes.jinja", r'<tool_call>\n(\{"name": "now", "arguments": \{"zone": "UTC"\}\})\n</tool_call>'),
        ("tool-chat-llama3.1-json.jinja", r'(\{"name": "now", "parameters": \{"zone": "UTC"\}\})<\|eot_id\|>'),
        ("tool-chat-phi4-mini.jinja", r'functools(\[\{"name": "now", "arguments": \{"zone": "UTC"\}\}\])<\|end\|>'),
        ("tool-chat-deepseekr1.jinja", r'<｜tool▁sep｜>now\n```json\n(\{"zone": "UTC"\})\n```<｜tool▁call▁end｜>'),
        ("tool-chat-deepseekv3.jinja", r'<｜tool▁sep｜>now\n```json\n(\{"zone": "UTC"\})\n```<｜tool▁call▁end｜>'),
    ],
)
def test_tools_their_calls_and_results_are_in_the_prompt(name: str, call: str) -> None:
    prompt = rendered(name, TALK, [TOOL])
    found = re.search(call, prompt)
    assert found is not None and json.loads(found[1])
    assert '"name": "now", "parameters"' in prompt and "12:00" in prompt and "Noon." in prompt
    assert prompt.index("What time") < found.start() < prompt.index("12:00") < prompt.index("Thanks")
    if "deepseek" in name:
        assert "easy" not in prompt


@pytest.mark.parametrize("name", ["llama-3-instruct.jinja", "mistral-instruct.jinja"])
def test_turns_must_alternate(name: str) -> None:
    with pytest.raises(TemplateError, match="take turns"):
        rendered(name, [PLAIN[1], PLAIN[1]])
