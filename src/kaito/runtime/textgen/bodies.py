# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""OpenAI's requests, read strictly, and the bodies of answers. Pure.

What this server cannot do is refused with 501 and a reason, never ignored: a wrong value is a 400, an unknown field is
one that some client sends for its own sake and has no meaning here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kaito.runtime.textgen.sampling import Logprobs, Sampling

INSTEAD = "Use the vllm engine for it (annotation kaito.sh/runtime: vllm)."
MOST_CHOICES = 128
MOST_LOGPROBS = 20
DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default for `/v1/completions`."""
UNSUPPORTED = (
    *("suffix", "use_beam_search", "prompt_logprobs", "truncate_prompt_tokens", "structured_outputs", "guided_json"),
    *("guided_regex", "guided_choice", "guided_grammar", "audio", "prediction", "web_search_options", "functions"),
    *("function_call", "logits_processors", "prompt_embeds", "documents", "kv_transfer_params", "allowed_token_ids"),
)
"""Fields that would change the answer and that this server does not know."""


class Refusal(Exception):
    """The request is not answered: a status, a sentence, and the field that it is about."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param

    def body(self) -> dict[str, Any]:
        """In OpenAI's shape, with vLLM's words for the kinds."""
        kinds = {400: "BadRequestError", 404: "NotFoundError", 501: "NotImplementedError"}
        kind = kinds.get(self.status, "InternalServerError")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.status}}


@dataclass(frozen=True, slots=True)
class Tools:
    """The functions that a chat may call."""

    given: list[dict[str, Any]]
    choice: str
    """`auto`, `none`, `required`, or a function's name after a colon."""
    most: int | None = None
    """How many calls an answer may have."""

    def schema(self) -> dict[str, Any] | None:
        """What the answer must be when a call is asked for."""
        functions = [tool["function"] for tool in self.given]
        if self.choice.startswith(":"):
            named = next(one for one in functions if one["name"] == self.choice[1:])
            return dict(named.get("parameters") or {"type": "object"})
        if self.choice != "required":
            return None
        calls = [
            {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "enum": [one["name"]]},
                    "parameters": one.get("parameters") or {"type": "object"},
                },
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
            for one in functions
        ]
        several = {"type": "array", "minItems": 1, "items": {"anyOf": calls}}
        return several if self.most is None else {**several, "maxItems": self.most}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request, understood."""

    chat: bool
    prompts: list[str | list[int] | list[dict[str, Any]]]
    """Texts, tokens, or (one) conversation."""
    sampling: dict[str, Any]
    """Fields of Sampling but for the limit and the end tokens, which the model decides with."""
    max_tokens: int | None
    stops: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    keep_stop: bool = False
    skip_special: bool = True
    n: int = 1
    stream: bool = False
    usage_chunk: bool = False
    echo: bool = False
    tools: Tools | None = None
    schema: dict[str, Any] | str | None = None
    """A JSON schema that the answer must follow; the text `json` takes any object."""
    template: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the chat template."""


def wanted(body: Any, *, chat: bool, defaults: Mapping[str, Any]) -> Wanted:
    """The request; raises Refusal. `defaults` is the model's generation_config.json."""
    if not isinstance(body, dict):
        raise Refusal("The body must be a JSON object.")
    for name in UNSUPPORTED:
        if body.get(name) not in (None, False, [], {}):
            raise Refusal(f"The transformers engine does not support `{name}`. {INSTEAD}", status=501, param=name)
    stops = stop_words(body)
    limit = integer(body, "max_completion_tokens", least=1) if chat else None
    limit = limit or integer(body, "max_tokens", least=1)
    if limit is None:
        limit = defaults.get("max_new_tokens") if chat else DEFAULT_COMPLETION_TOKENS
    n = integer(body, "n", least=1, most=MOST_CHOICES) or 1
    best_of = integer(body, "best_of", least=1)
    if best_of is not None and best_of != n:
        raise Refusal(f"The transformers engine does not support `best_of`. {INSTEAD}", status=501, param="best_of")
    options = body.get("stream_options")
    tools = tools_of(body) if chat else None
    return Wanted(
        chat=chat,
        prompts=[conversation(body)] if chat else prompts(body),
        sampling=sampling_of(body, chat=chat, defaults=defaults),
        max_tokens=limit,
        stops=stops,
        stop_ids=frozenset(tokens_of(body, "stop_token_ids")),
        ignore_eos=boolean(body, "ignore_eos"),
        keep_stop=boolean(body, "include_stop_str_in_output"),
        skip_special=boolean(body, "skip_special_tokens", default=True),
        n=n,
        stream=boolean(body, "stream"),
        usage_chunk=isinstance(options, dict) and options.get("include_usage") is True,
        echo=echo_of(body, chat=chat),
        tools=tools,
        schema=schema_of(body, tools),
        template=template_of(body) if chat else {},
    )


def number(body: Mapping[str, Any], name: str, *, least: float, most: float) -> float | None:
    """A number field; raises Refusal."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise Refusal(f"`{name}` must be a number from {least:g} to {most:g}.", param=name)
    return float(value)


def integer(body: Mapping[str, Any], name: str, *, least: int, most: int = 2**63 - 1) -> int | None:
    """A whole number field; raises Refusal."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Refusal(f"`{name}` must be a whole number of at least {least}.", param=name)
    return value


def boolean(body: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    """A yes or no; raises Refusal."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise Refusal(f"`{name}` must be true or false.", param=name)
    return value


def stop_words(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The stop words; raises Refusal."""
    stop = body.get("stop")
    words = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise Refusal("`stop` must be a text or a list of texts.", param="stop")
    return tuple(word for word in words if word)


def tokens_of(body: Mapping[str, Any], name: str) -> list[int]:
    """A list of tokens; raises Refusal."""
    value = body.get(name) or []
    if not isinstance(value, list) or not all(isinstance(one, int) and not isinstance(one, bool) for one in value):
        raise Refusal(f"`{name}` must be a list of token ids.", param=name)
    return value


def sampling_of(body: Mapping[str, Any], *, chat: bool, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of Sampling; what the request leaves open the model's generation_config.json says, then OpenAI."""
    found: dict[str, Any] = {
        "temperature": number(body, "temperature", least=0.0, most=100.0),
        "top_p": number(body, "top_p", least=0.0, most=1.0),
        "top_k": integer(body, "top_k", least=-1),
        "min_p": number(body, "min_p", least=0.0, most=1.0),
        "repetition_penalty": number(body, "repetition_penalty", least=0.01, most=100.0),
    }
    for name, value in found.items():
        if value is None and isinstance(defaults.get(name), int | float):
            found[name] = defaults[name]
    found["presence_penalty"] = number(body, "presence_penalty", least=-2.0, most=2.0)
    found["frequency_penalty"] = number(body, "frequency_penalty", least=-2.0, most=2.0)
    found["seed"] = integer(body, "seed", least=-(2**63))
    found["min_tokens"] = integer(body, "min_tokens", least=0)
    found = {name: value for name, value in found.items() if value is not None}
    if found.get("top_k", 0) < 0:
        found["top_k"] = 0
    if found.get("top_p") == 0.0:
        raise Refusal("`top_p` must be more than 0.", param="top_p")
    bias = body.get("logit_bias")
    if bias:
        found["logit_bias"] = biases(bias)
    logprobs = logprobs_of_request(body, chat=chat)
    return found if logprobs is None else {**found, "logprobs": logprobs}


def biases(bias: Any) -> dict[int, float]:
    """`logit_bias` by token; raises Refusal."""
    try:
        values = {int(token): float(value) for token, value in bias.items()}
    except (AttributeError, TypeError, ValueError):
        raise Refusal("`logit_bias` must map token ids to numbers.", param="logit_bias") from None
    return {token: max(-100.0, min(100.0, value)) for token, value in values.items()}


def logprobs_of_request(body: Mapping[str, Any], *, chat: bool) -> int | None:
    """How many alternatives are asked for; None when no log-probabilities are. Raises Refusal."""
    if not chat:
        return integer(body, "logprobs", least=0, most=MOST_LOGPROBS)
    top = integer(body, "top_logprobs", least=0, most=MOST_LOGPROBS)
    if not boolean(body, "logprobs"):
        if top:
            raise Refusal("`top_logprobs` needs `logprobs: true`.", param="top_logprobs")
        return None
    return top or 0


def conversation(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages with their contents as plain texts; raises Refusal."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal("`messages` must be a list of objects with `role` and `content`.", param="messages")
    found = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refusal("Every message needs a `role` and a `content`.", param="messages")
        content = message.get("content")
        if isinstance(content, list):
            content = joined_parts(content)
        elif content is not None and not isinstance(content, str):
            raise Refusal("A message's `content` must be a text or a list of parts.", param="messages")
        found.append({**message, "content": content or ""})
        if message.get("tool_calls"):
            found[-1]["tool_calls"] = [called(call) for call in message["tool_calls"]]
    return found


def joined_parts(parts: list[Any]) -> str:
    """The text parts of a message; raises Refusal for pictures and sound."""
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            what = f"parts of the type {kind}" if kind and kind != "text" else "such parts"
            status = 501 if kind and kind != "text" else 400
            raise Refusal(
                f"The transformers engine does not take {what} in a message. {INSTEAD}", status=status, param="messages"
            )
        texts.append(part["text"])
    return "\n".join(texts)


def called(call: Any) -> dict[str, Any]:
    """An earlier tool call with its arguments as an object, as chat templates want it; raises Refusal."""
    try:
        function = call["function"]
        arguments = function["arguments"]
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
        return {**call, "function": {**function, "arguments": value}}
    except (KeyError, TypeError, ValueError):
        raise Refusal("A tool call in `messages` needs `function` with `name` and `arguments` (JSON).") from None


def prompts(body: Mapping[str, Any]) -> list[str | list[int] | list[dict[str, Any]]]:
    """The prompts of a completion: a text, tokens, or several of either; raises Refusal."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt:
        if all(is_token(one) for one in prompt):
            return [list(prompt)]
        if all(isinstance(one, str) for one in prompt):
            return list(prompt)
        if all(isinstance(one, list) and one and all(is_token(token) for token in one) for one in prompt):
            return [list(one) for one in prompt]
    raise Refusal("`prompt` must be a text, a list of token ids, or a list of either.", param="prompt")


def is_token(value: Any) -> bool:
    """A token id."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def echo_of(body: Mapping[str, Any], *, chat: bool) -> bool:
    """The prompt is to stand before the answer; raises Refusal where that cannot be had."""
    echo = boolean(body, "echo")
    if echo and (chat or body.get("logprobs") is not None):
        raise Refusal(f"The transformers engine does not support `echo` here. {INSTEAD}", status=501, param="echo")
    return echo


def tools_of(body: Mapping[str, Any]) -> Tools | None:
    """The functions of a chat; raises Refusal."""
    tools = body.get("tools")
    choice = body.get("tool_choice")
    if not tools:
        if choice not in (None, "none", "auto"):
            raise Refusal("`tool_choice` needs `tools`.", param="tool_choice")
        return None
    names = []
    for tool in tools if isinstance(tools, list) else [None]:
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Refusal("Every entry of `tools` needs a `function` with a `name`.", param="tools")
        names.append(function["name"])
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name") if isinstance(choice.get("function"), dict) else None
        if name not in names:
            raise Refusal("`tool_choice` names no function of `tools`.", param="tool_choice")
        return Tools(tools, f":{name}")
    if choice not in (None, "auto", "none", "required"):
        raise Refusal("`tool_choice` must be none, auto, required, or name a function.", param="tool_choice")
    return Tools(tools, choice or "auto", 1 if body.get("parallel_tool_calls") is False else None)


def schema_of(body: Mapping[str, Any], tools: Tools | None) -> dict[str, Any] | str | None:
    """What JSON the answer must be; raises Refusal."""
    if tools is not None and tools.schema() is not None:
        return tools.schema()
    wish = body.get("response_format")
    if wish is None:
        return None
    kind = wish.get("type") if isinstance(wish, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return "json"
    if kind == "json_schema":
        given = wish.get("json_schema")
        schema = given.get("schema") if isinstance(given, dict) else None
        if not isinstance(schema, dict):
            raise Refusal("`response_format.json_schema.schema` must be an object.", param="response_format")
        return schema
    raise Refusal("`response_format.type` must be text, json_object or json_schema.", param="response_format")


def template_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for the chat template; raises Refusal."""
    extra = body.get("chat_template_kwargs") or {}
    if not isinstance(extra, dict):
        raise Refusal("`chat_template_kwargs` must be an object.", param="chat_template_kwargs")
    found = {"add_generation_prompt": boolean(body, "add_generation_prompt", default=True), **extra}
    if body.get("chat_template") is not None:
        raise Refusal("A request cannot bring its own chat template here.", status=501, param="chat_template")
    return found


# Answers


@dataclass(slots=True)
class Told:
    """One token as it is told with log-probabilities."""

    text: str
    logprobs: Logprobs
    top: list[tuple[str, float]]


def chat_logprobs(told: Sequence[Told]) -> dict[str, Any] | None:
    """`choices[].logprobs` of a chat."""
    if not told:
        return None

    def entry(text: str, value: float) -> dict[str, Any]:
        return {"token": text, "logprob": value, "bytes": list(text.encode())}

    return {
        "content": [
            {**entry(one.text, one.logprobs.chosen), "top_logprobs": [entry(*pair) for pair in one.top]} for one in told
        ]
    }


def completion_logprobs(told: Sequence[Told], offset: int) -> dict[str, Any] | None:
    """`choices[].logprobs` of a completion."""
    if not told:
        return None
    offsets = []
    for one in told:
        offsets.append(offset)
        offset += len(one.text)
    return {
        "tokens": [one.text for one in told],
        "token_logprobs": [one.logprobs.chosen for one in told],
        "top_logprobs": [{**dict(one.top), one.text: one.logprobs.chosen} for one in told],
        "text_offset": offsets,
    }


def usage(prompt: int, answer: int) -> dict[str, Any]:
    """`usage`."""
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def sampling(request: Wanted, *, room: int, ends: frozenset[int]) -> Sampling:
    """How one answer is made: `room` is how many tokens the model has left for it, `ends` are its own end tokens."""
    limit = min(request.max_tokens or room, room)
    stop_ids = request.stop_ids if request.ignore_eos else request.stop_ids | ends
    return Sampling(max_tokens=limit, stop_ids=stop_ids, **request.sampling)
