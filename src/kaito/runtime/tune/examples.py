# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a row of a data set means: which schema its columns have, and the row as an example to train on. Pure.

Schemas are those that people have: `messages`, ShareGPT's `conversations`, `prompt` and `completion`, `instruction`,
`input` and `output` (Alpaca), `text`, `prompt` with `chosen` and `rejected` (preferences), or whatever columns the
configuration names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from posixpath import commonprefix
from typing import Any, Literal

from kaito.api.names import REASON_TUNING_COLUMNS
from kaito.api.training import DatasetSection
from kaito.runtime.failure import Failed

Kind = Literal["chat", "pair", "instruction", "text", "preference"]
Message = dict[str, Any]
ROLES = frozenset({"system", "user", "assistant", "tool", "developer", "function"})
SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "bot": "assistant",
    "chatgpt": "assistant", "model": "assistant", "system": "system", "tool": "tool", "function": "tool",
}  # fmt: skip
EMPTY = "it is empty"
"""The beginning of the reason of every row that has nothing in it."""


class BadRow(ValueError):
    """A row that cannot be trained on; the text says why, for a sentence that goes on with it."""

    @property
    def is_empty(self) -> bool:
        """The row has the columns, with nothing in them."""
        return str(self).startswith(EMPTY)


@dataclass(frozen=True, slots=True)
class Schema:
    """What the columns of a file mean."""

    kind: Kind
    columns: Mapping[str, str] = field(default_factory=dict)
    """Where each part is found."""

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Columns that must hold something, where they are plain text."""
        optional = {"input", "system", "tools"}
        return tuple(column for part, column in self.columns.items() if part not in optional)

    def __str__(self) -> str:
        return f"{self.kind} ({', '.join(self.columns.values())})"


@dataclass(frozen=True, slots=True)
class Example:
    """One thing to learn: a conversation, a prompt with its completion, a text, or a preference."""

    messages: tuple[Message, ...] = ()
    tools: Any = None
    prompt: Any = ""
    """Text; of a preference also a list of messages."""
    completion: str = ""
    text: str = ""
    chosen: Any = None
    rejected: Any = None
    learn_from: int = 0
    """In a conversation: the first message that counts for the loss, where not all do."""


SHAPES: tuple[tuple[Kind, tuple[str, ...], tuple[str, ...]], ...] = (
    ("preference", ("chosen", "rejected"), ("prompt",)),
    ("chat", ("messages",), ("tools",)),
    ("chat", ("conversations",), ("tools", "system")),
    ("chat", ("conversation",), ("tools", "system")),
    ("pair", ("prompt", "completion"), ()),
    ("pair", ("prompt", "response"), ()),
    ("pair", ("question", "answer"), ()),
    ("instruction", ("instruction", "output"), ("input",)),
    ("instruction", ("instruction", "response"), ("context", "input")),
    ("text", ("text",), ()),
)
"""Kind, columns that it needs, and columns that it may have; the first that fits is taken."""
PARTS = {
    "messages": "messages", "conversations": "messages", "conversation": "messages", "response": "completion",
    "answer": "completion", "question": "prompt", "output": "completion", "context": "input", "instruction": "prompt",
}  # fmt: skip


def schema_of(columns: Sequence[str], options: DatasetSection, file: str) -> Schema:
    """The schema of a file with these columns; raises Failed (TuningDataColumnsUnknown)."""
    named = {
        key: column
        for key in ("messages_column", "context_column", "response_column")
        if (column := getattr(options, key)) is not None
    }
    for key, column in named.items():
        if column not in columns:
            raise _unknown(columns, file, f"DatasetConfig.{key} names {column}, which is not among its columns")
    if "messages_column" in named:
        return Schema("chat", {"messages": named["messages_column"]})
    if "context_column" in named and "response_column" in named:
        return Schema("pair", {"prompt": named["context_column"], "completion": named["response_column"]})
    if "response_column" in named:
        return Schema("text", {"text": named["response_column"]})
    if "context_column" in named:
        raise _unknown(columns, file, "DatasetConfig names a context_column and no response_column")
    for kind, needed, more in SHAPES:
        if set(needed) <= set(columns):
            found = (*needed, *(column for column in more if column in columns))
            return Schema(kind, {PARTS.get(column, column): column for column in found})
    raise _unknown(columns, file, "none of the known schemas has these columns")


def _unknown(columns: Sequence[str], file: str, why: str) -> Failed:
    shown = ", ".join(list(columns)[:12]) or "none"
    return Failed(
        REASON_TUNING_COLUMNS,
        f"{file} has the columns {shown}: {why}.",
        "Use messages, prompt and completion, instruction and output, or text; or name yours in DatasetConfig as "
        "messages_column, or context_column and response_column.",
    )


def example_of(row: Mapping[str, Any], schema: Schema) -> Example:
    """The row as an example; raises BadRow."""
    part = {name: row.get(column) for name, column in schema.columns.items()}
    match schema.kind:
        case "chat":
            return _chat(part)
        case "pair":
            return _pair(part["prompt"], part["completion"], schema)
        case "instruction":
            prompt, more = _text(part["prompt"], schema.columns["prompt"]), part.get("input")
            prompt = f"{prompt}\n\n{more.strip()}" if isinstance(more, str) and more.strip() else prompt
            answer = _text(part["completion"], schema.columns["completion"])
            return Example(messages=({"role": "user", "content": prompt}, {"role": "assistant", "content": answer}))
        case "text":
            return Example(text=_text(part["text"], schema.columns["text"]))
        case "preference":
            return _preference(part)


def _text(value: Any, column: str) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRow(f"{EMPTY} ({column})")
    if not isinstance(value, str):
        raise BadRow(f"{column} is no text but a {_sort(value)}")
    return value


def _sort(value: Any) -> str:
    names = {"list": "list", "dict": "map", "int": "number", "float": "number", "bool": "truth value"}
    return names.get(type(value).__name__, type(value).__name__)


def _pair(prompt: Any, completion: Any, schema: Schema) -> Example:
    if isinstance(prompt, list) or isinstance(completion, list):
        head = _messages(prompt) if isinstance(prompt, list) else ({"role": "user", "content": prompt},)
        tail = (
            _messages(completion) if isinstance(completion, list) else ({"role": "assistant", "content": completion},)
        )
        return Example(messages=(*head, *tail), learn_from=len(head))
    return Example(
        prompt=_text(prompt, schema.columns["prompt"]), completion=_text(completion, schema.columns["completion"])
    )


def _chat(part: Mapping[str, Any]) -> Example:
    messages = _messages(part["messages"])
    system = part.get("system")
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages = ({"role": "system", "content": system}, *messages)
    if not any(message["role"] == "assistant" for message in messages):
        raise BadRow("no message of it is the assistant's")
    return Example(messages=messages, tools=part.get("tools") or None)


def _messages(value: Any) -> tuple[Message, ...]:
    if value is None or value == []:
        raise BadRow(f"{EMPTY} (no messages)")
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise BadRow("its messages are no list of maps")
    return tuple(_message(message, index) for index, message in enumerate(value))


def _message(message: Mapping[str, Any], index: int) -> Message:
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    role = SHAREGPT_ROLES.get(str(role).lower(), role) if "from" in message else role
    if role not in ROLES:
        raise BadRow(f"message {index} has the role {role!r}: write system, user or assistant")
    calls = message.get("tool_calls")
    if content is None and calls:
        content = ""
    if content is None or (isinstance(content, str) and not content.strip() and not calls):
        raise BadRow(f"{EMPTY} (message {index})")
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        raise BadRow(f"message {index} holds no text but a {_sort(content)}")
    more = {key: message[key] for key in ("tool_calls", "name") if message.get(key)}
    return {"role": role, "content": content, **more}


def _preference(part: Mapping[str, Any]) -> Example:
    """Prompt and both answers, all texts or all lists of messages. Where the answers are whole conversations or texts,
    what they begin with is the prompt."""
    sides: list[Any] = []
    for name in ("chosen", "rejected"):
        value = part[name]
        sides.append(list(_messages(value)) if isinstance(value, list) else _text(value, name))
    chosen, rejected = sides
    if chosen == rejected:
        raise BadRow("chosen and rejected are the same")
    prompt = part.get("prompt")
    prompt = list(_messages(prompt)) if isinstance(prompt, list) else prompt or ""
    shared: Any = ""
    if any(isinstance(one, list) for one in (prompt, chosen, rejected)):
        prompt, chosen, rejected = _as_messages(prompt, "user"), *(_as_messages(one, "assistant") for one in sides)
        both = list(_shared(chosen, rejected))
        shared = both if both[: len(prompt)] == prompt else []
    elif not prompt:
        shared = _common_words(chosen, rejected)
    prompt = shared or prompt
    if not prompt:
        raise BadRow("it has no prompt, and its answers do not begin with the same")
    chosen, rejected = chosen[len(shared) :], rejected[len(shared) :]
    if not chosen or not rejected:
        raise BadRow("one of its answers is the beginning of the other")
    return Example(prompt=prompt, chosen=chosen, rejected=rejected)


def _as_messages(value: Any, role: str) -> list[Message]:
    if isinstance(value, list):
        return value
    return [{"role": role, "content": value}] if value else []


def _shared(first: Sequence[Any], second: Sequence[Any]) -> Iterator[Any]:
    """What both begin with."""
    for one, other in zip(first, second, strict=False):
        if one != other:
            return
        yield one


def _common_words(first: str, second: str) -> str:
    """The whole words that both texts begin with."""
    shared = commonprefix((first, second))
    return shared[: max(shared.rfind(" "), shared.rfind("\n")) + 1].rstrip(" ")


def as_conversation(example: Example) -> Example:
    """A preference between texts as one between messages, as others of its data set are."""
    prompt, chosen, rejected = (
        _as_messages(part, role)
        for part, role in ((example.prompt, "user"), (example.chosen, "assistant"), (example.rejected, "assistant"))
    )
    return Example(prompt=prompt, chosen=chosen, rejected=rejected)
