# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The HTTP side of the transformers engine: OpenAI's routes on a Unix socket, answered by one batch.

What the engine has no route for is a 501 with a reason. The front stands before it and has the keys, the limits and the
old routes.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from kaito.runtime.textgen.answer import Choice, tool_calls
from kaito.runtime.textgen.batch import WORK_ERRORS, Batch, Sequence, Step
from kaito.runtime.textgen.bodies import (
    INSTEAD,
    Refusal,
    Wanted,
    chat_logprobs,
    completion_logprobs,
    sampling,
    usage,
    wanted,
)
from kaito.runtime.textgen.grammar import matcher
from kaito.runtime.textgen.lora import LoraModel
from kaito.runtime.textgen.model import Loaded

BODY_LIMIT = 256 * 1024**2


class Server:
    """One model behind OpenAI's routes."""

    def __init__(
        self, loaded: Loaded, name: str, *, tool_parser: str | None, adapters: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self._loaded = loaded
        self._name = name
        self._tool_parser = tool_parser
        self._adapters = adapters
        self._created = int(time.time())
        self._choices: dict[int, Choice] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lora = LoraModel(loaded.model)
        self._batch = Batch(self._lora, self._delivered, most=loaded.most, budget=loaded.budget, cache=loaded.cache)

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=BODY_LIMIT, middlewares=[self._errors])
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/version", self._version)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completion)
        app.router.add_post("/v1/load_lora_adapter", self._load_adapter)
        app.router.add_post("/v1/unload_lora_adapter", self._unload_adapter)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/detokenize", self._detokenize)
        app.router.add_route("*", "/{rest:.*}", self._nothing)
        app.on_startup.append(self._start)
        app.on_cleanup.append(self._end)
        return app

    async def _start(self, app: web.Application) -> None:
        self._loop = asyncio.get_running_loop()
        self._batch.start()
        for name, folder in self._adapters:
            await self.load_adapter(name, folder)

    async def _end(self, app: web.Application) -> None:
        await asyncio.to_thread(self._batch.stop)

    def _delivered(self, steps: list[Step]) -> None:
        """Called on the batch's thread, once a step."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._hand_out, steps)

    def _hand_out(self, steps: list[Step]) -> None:
        for step in steps:
            choice = self._choices.get(id(step.sequence))
            if choice is not None:
                choice.steps.put_nowait(step)

    @web.middleware
    async def _errors(self, request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            response: web.StreamResponse = await handler(request)
            return response
        except Refusal as error:
            return web.json_response(error.body(), status=error.status)
        except web.HTTPException as error:
            return web.json_response(Refusal(error.reason, status=error.status).body(), status=error.status)

    async def _health(self, request: web.Request) -> web.StreamResponse:
        if self._batch.error is not None:
            raise Refusal(f"The model's thread has ended: {self._batch.error[:300]}", status=503)
        return web.Response()

    async def _version(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"version": self._loaded.model.config.transformers_version})

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        if request.method != "POST":
            raise Refusal(f"There is no {request.path[:200]} here.", status=404)
        raise Refusal(f"The transformers engine does not serve {request.path[:200]}. {INSTEAD}", status=501)

    async def _models(self, request: web.Request) -> web.StreamResponse:
        common = {"object": "model", "created": self._created, "owned_by": "kaito"}
        root = self._loaded.model.name_or_path
        base = {"id": self._name, **common, "root": root, "parent": None, "max_model_len": self._loaded.length}
        adapters = [
            {"id": name, **common, "root": name, "parent": self._name, "max_model_len": None}
            for name in self._lora.names
        ]
        return web.json_response({"object": "list", "data": [base, *adapters]})

    async def _load_adapter(self, request: web.Request) -> web.StreamResponse:
        """vLLM's request to load an adapter, for the front alone."""
        body = await self._body(request)
        name, folder = str(body.get("lora_name") or ""), str(body.get("lora_path") or "")
        if not name or not folder:
            raise Refusal("`lora_name` and `lora_path` are needed.")
        await self.load_adapter(name, folder)
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def load_adapter(self, name: str, folder: str) -> None:
        """Have an adapter in the model; raises Refusal with PEFT's words when it cannot be."""
        try:
            await asyncio.wrap_future(
                self._batch.call(lambda: self._lora.load(name, folder, self._batch.adapters_in_use()))
            )
        except WORK_ERRORS as error:
            raise Refusal(f"The adapter {name} cannot be loaded: {error}", status=400) from error

    async def _unload_adapter(self, request: web.Request) -> web.StreamResponse:
        name = str((await self._body(request)).get("lora_name") or "")
        try:
            await asyncio.wrap_future(self._batch.call(lambda: self._lora.unload(name, self._batch.adapters_in_use())))
        except KeyError:
            raise Refusal(f"There is no adapter {name}.", status=404) from None
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        batch = self._batch
        values = (
            ("kaito_engine_requests_running", "gauge", "Sequences that are being answered.", batch.running),
            ("kaito_engine_requests_waiting", "gauge", "Sequences that wait for a place.", batch.waiting),
            ("kaito_engine_prompt_tokens_total", "counter", "Tokens of prompts computed.", batch.prompt_tokens),
            ("kaito_engine_generation_tokens_total", "counter", "Tokens made.", batch.generated_tokens),
        )
        text = "".join(f"# HELP {name} {says}\n# TYPE {name} {kind}\n{name} {n}\n" for name, kind, says, n in values)
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _tokenize(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        if isinstance(body.get("prompt"), str):
            tokens = self._loaded.tokenizer(body["prompt"])["input_ids"]
        else:
            tokens = self._rendered(wanted({"messages": body.get("messages")}, chat=True, defaults={}))[0]
        return web.json_response({"count": len(tokens), "max_model_len": self._loaded.length, "tokens": tokens})

    async def _detokenize(self, request: web.Request) -> web.StreamResponse:
        tokens = (await self._body(request)).get("tokens")
        if not isinstance(tokens, list):
            raise Refusal("`tokens` must be a list of token ids.", param="tokens")
        self._known(tokens)
        return web.json_response({"prompt": self._loaded.tokenizer.decode(tokens)})

    async def _body(self, request: web.Request) -> dict[str, Any]:
        try:
            body = json.loads(await request.read())
        except (ValueError, RecursionError):
            raise Refusal("The body is not valid JSON.") from None
        if not isinstance(body, dict):
            raise Refusal("The body must be a JSON object.")
        name = body.get("model")
        if name is not None and name != self._name and name not in self._lora.names:
            raise Refusal(f"The model `{name}` does not exist.", status=404, param="model")
        return body

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=True)

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=False)

    async def _answer(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        body = await self._body(request)
        asked = wanted(body, chat=chat, defaults=self._loaded.defaults)
        name = body.get("model") or self._name
        if asked.tools is not None and asked.tools.choice == "auto" and self._tool_parser != "hermes":
            raise Refusal(
                "This model has no tool parser that the transformers engine knows, so that it cannot choose tools by "
                f"itself: ask with `tool_choice` required or a named function. {INSTEAD}",
                status=501,
                param="tool_choice",
            )
        prompts = self._rendered(asked)
        adapter = self._lora.inner(name)
        choices = [self._choice(asked, prompt, adapter) for prompt in prompts for _ in range(asked.n)]
        identity = request.headers.get("X-Request-Id") or uuid.uuid4().hex
        envelope = {
            "id": ("chatcmpl-" if chat else "cmpl-") + identity,
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": name,
        }
        try:
            for choice in choices:
                self._choices[id(choice.sequence)] = choice
                self._batch.add(choice.sequence)
            counted = sum(map(len, prompts))
            if asked.stream:
                return await self._streamed(request, asked, choices, envelope, counted)
            await asyncio.gather(*(choice.complete() for choice in choices))
            entries = [self._entry(asked, index, choice) for index, choice in enumerate(choices)]
            answered = usage(counted, sum(choice.tokens for choice in choices))
            return web.json_response({**envelope, "choices": entries, "usage": answered})
        finally:
            for choice in choices:
                choice.sequence.cancelled = True
                self._choices.pop(id(choice.sequence), None)

    def _rendered(self, asked: Wanted) -> list[list[int]]:
        """The prompts as tokens; raises Refusal for those that are too long."""
        found = []
        for prompt in asked.prompts:
            if asked.chat:
                tokens = self._templated(asked, prompt)
            elif isinstance(prompt, str):
                tokens = self._loaded.tokenizer(prompt)["input_ids"]
            else:
                tokens = [one for one in prompt if isinstance(one, int)]
                self._known(tokens)
            if not tokens:
                raise Refusal("The prompt is empty.", param="messages" if asked.chat else "prompt")
            if len(tokens) >= self._loaded.length:
                raise Refusal(
                    f"This model's maximum context length is {self._loaded.length} tokens, "
                    f"and the prompt has {len(tokens)}.",
                    param="messages" if asked.chat else "prompt",
                )
            found.append(tokens)
        return found

    def _known(self, tokens: list[int]) -> None:
        most = self._loaded.vocabulary
        if not all(isinstance(token, int) and 0 <= token < most for token in tokens):
            raise Refusal(f"Token ids are from 0 to {most - 1}.", param="prompt")

    def _templated(self, asked: Wanted, messages: Any) -> list[int]:
        tokenizer = self._loaded.tokenizer
        if not tokenizer.chat_template:
            raise Refusal("This model has no chat template; use /v1/completions.")
        tools = asked.tools.given if asked.tools is not None else None
        try:
            text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, **asked.template)
        except (ValueError, TypeError, KeyError, LookupError, ArithmeticError, AttributeError) as error:
            raise Refusal(f"The model's chat template refuses the messages: {error}", param="messages") from None
        except Exception as error:
            # jinja2's own errors, which are not among the above and whose package is transformers' business
            if type(error).__module__.startswith("jinja2"):
                raise Refusal(f"The model's chat template refuses the messages: {error}", param="messages") from None
            raise
        tokens: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens

    def _choice(self, asked: Wanted, prompt: list[int], adapter: str) -> Choice:
        wish = sampling(asked, room=self._loaded.length - len(prompt), ends=self._loaded.ends)
        if any(not 0 <= token < self._loaded.vocabulary for token in wish.logit_bias):
            raise Refusal("`logit_bias` names a token that the model does not have.", param="logit_bias")
        grammar = (
            matcher(self._loaded.grammars, asked.schema, self._loaded.vocabulary) if asked.schema is not None else None
        )
        return Choice(Sequence(prompt, wish, grammar, adapter), asked, self._loaded.tokenizer)

    def _entry(self, asked: Wanted, index: int, choice: Choice) -> dict[str, Any]:
        """One of `choices`."""
        end = {"finish_reason": choice.finish, "stop_reason": choice.stop}
        if not asked.chat:
            before = self._before(asked, index)
            logprobs = completion_logprobs(choice.told, len(before))
            return {"index": index, "text": before + choice.text, "logprobs": logprobs, **end}
        text, calls = tool_calls(choice.text, asked.tools, self._tool_parser)
        if calls and asked.tools is not None and asked.tools.choice in ("auto", "required"):
            end["finish_reason"] = "tool_calls"
        message = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
        message["tool_calls"] = calls  # type: ignore[assignment]
        return {"index": index, "message": message, "logprobs": chat_logprobs(choice.told), **end}

    def _before(self, asked: Wanted, index: int) -> str:
        if not asked.echo:
            return ""
        prompt = asked.prompts[index // asked.n]
        return prompt if isinstance(prompt, str) else str(self._loaded.tokenizer.decode(prompt))

    async def _streamed(
        self, request: web.Request, asked: Wanted, choices: list[Choice], envelope: dict[str, Any], prompt: int
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        if asked.chat:
            envelope = {**envelope, "object": "chat.completion.chunk"}
        try:
            async for entry in self._stream_entries(asked, choices):
                await response.write(event({**envelope, "choices": [entry]}))
        except Refusal as error:
            await response.write(event(error.body()))
        if asked.usage_chunk:
            counted = usage(prompt, sum(choice.tokens for choice in choices))
            await response.write(event({**envelope, "choices": [], "usage": counted}))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _stream_entries(self, asked: Wanted, choices: list[Choice]) -> AsyncIterator[dict[str, Any]]:
        """`choices` of the stream's events, in the order in which they come."""
        entries: asyncio.Queue[dict[str, Any] | Exception | None] = asyncio.Queue()
        tasks = [asyncio.create_task(self._put(entries, asked, *one)) for one in enumerate(choices)]
        try:
            left = len(tasks)
            while left:
                entry = await entries.get()
                if entry is None:
                    left -= 1
                elif isinstance(entry, Exception):
                    raise entry
                else:
                    yield entry
        finally:
            for task in tasks:
                task.cancel()

    async def _put(self, entries: asyncio.Queue[Any], asked: Wanted, index: int, choice: Choice) -> None:
        whole = asked.tools is not None and asked.tools.choice != "none"  # calls are known when they are complete
        if asked.chat:
            delta = {"role": "assistant", "content": ""}
            entries.put_nowait({"index": index, "delta": delta, "logprobs": None, "finish_reason": None})
        elif asked.echo:
            entries.put_nowait({"index": index, "text": self._before(asked, index), "logprobs": None})
        offset = len(self._before(asked, index))
        try:
            async for piece in choice.pieces():
                if whole:
                    continue
                if asked.chat:
                    told = chat_logprobs(piece.told)
                    delta = {"content": piece.text}
                    entries.put_nowait({"index": index, "delta": delta, "logprobs": told, "finish_reason": None})
                else:
                    told = completion_logprobs(piece.told, offset)
                    offset += len(piece.text)
                    entries.put_nowait({"index": index, "text": piece.text, "logprobs": told, "finish_reason": None})
        except Refusal as error:
            entries.put_nowait(error)
            return
        entries.put_nowait(self._last(asked, index, choice, whole=whole))
        entries.put_nowait(None)

    def _last(self, asked: Wanted, index: int, choice: Choice, *, whole: bool) -> dict[str, Any]:
        """The event that ends a choice."""
        entry = self._entry(asked, index, choice)
        end = {"finish_reason": entry["finish_reason"], "stop_reason": entry["stop_reason"]}
        if not asked.chat:
            return {"index": index, "text": "", "logprobs": None, **end}
        delta: dict[str, Any] = {}
        if whole:
            message = entry["message"]
            calls = [{"index": number, **one} for number, one in enumerate(message["tool_calls"])]
            delta = {"content": message["content"], **({"tool_calls": calls} if calls else {})}
        return {"index": index, "delta": delta, "logprobs": None, **end}


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
