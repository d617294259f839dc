# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Answers that must be JSON, or JSON of a schema: xgrammar says which tokens may come next."""

from __future__ import annotations

import json
from typing import Any

import torch
import xgrammar

from kaito.runtime.textgen.bodies import Refusal


class JsonMatcher:
    """One answer's way through its grammar."""

    def __init__(self, compiled: xgrammar.CompiledGrammar, vocabulary: int) -> None:
        self._matcher = xgrammar.GrammarMatcher(compiled)
        self._bits = xgrammar.allocate_token_bitmask(1, vocabulary)

    def mask(self, logits: Any) -> None:
        """Make the tokens impossible that may not come next, in place."""
        self._matcher.fill_next_token_bitmask(self._bits)
        width = logits.shape[-1]
        bits = self._bits[0].unsqueeze(-1).bitwise_right_shift(torch.arange(32, dtype=torch.int32)) & 1
        logits.masked_fill_(~bits.flatten()[:width].bool().to(logits.device), -torch.inf)

    def accept(self, token: int) -> None:
        """Go on with this token."""
        if not self._matcher.is_terminated():
            self._matcher.accept_token(token)


def matcher(compiler: xgrammar.GrammarCompiler, schema: dict[str, Any] | str, vocabulary: int) -> JsonMatcher:
    """A matcher for a schema, or (`json`) for any JSON object; raises Refusal for a schema that cannot be followed."""
    try:
        if isinstance(schema, str):
            compiled = compiler.compile_builtin_json_grammar()
        else:
            compiled = compiler.compile_json_schema(json.dumps(schema), any_whitespace=False)
    except (RuntimeError, ValueError) as error:
        text = str(error).splitlines()[-1][:200]
        raise Refusal(f"The JSON schema cannot be followed: {text}", param="response_format") from None
    return JsonMatcher(compiled, vocabulary)
