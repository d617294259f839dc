# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters of a transformers model, each row of a batch with its own (PEFT's mixed batches).

Every method runs on the thread that computes: PEFT changes the model's modules in their place. PEFT is imported when
the first adapter comes.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence
from typing import Any

import torch

BASE = "__base__"
"""PEFT's word for a row without an adapter."""


class LoraModel:
    """A model with any number of adapters; without one it is the model alone."""

    def __init__(self, model: Any) -> None:
        self.base = model
        self._peft: Any = None
        self._inner: dict[str, str] = {}
        """PEFT's names of the adapters: they name modules, which can have no dots."""
        self._held: list[str] = []
        """Those that PEFT has: also some that nobody can ask for any more, while answers are made with them."""
        self._count = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that can be asked for."""
        return tuple(self._inner)

    def inner(self, name: str) -> str:
        """What a row is to say to be computed with the adapter, or, for a name that is none, with the model alone."""
        return self._inner.get(name, BASE)

    def load(self, name: str, folder: str, in_use: Collection[str]) -> None:
        """Add an adapter, in place of an earlier one of its name; what goes wrong is what PEFT raises."""
        self._count += 1
        inner = f"adapter_{self._count}"
        with torch.inference_mode(False):
            if self._peft is None:
                peft = importlib.import_module("peft")
                self._peft = peft.PeftModel.from_pretrained(self.base, folder, adapter_name=inner)
            else:
                self._peft.load_adapter(folder, adapter_name=inner)
            self._peft.eval()
        self._inner[name] = inner
        self._held.append(inner)
        self._let_go(in_use)

    def unload(self, name: str, in_use: Collection[str]) -> None:
        """Take an adapter out; raises KeyError when there is none of the name."""
        del self._inner[name]
        self._let_go(in_use)

    def _let_go(self, in_use: Collection[str]) -> None:
        """Delete what nobody can ask for, once no row is computed with it; else with the next change."""
        kept = [inner for inner in self._held if inner in self._inner.values() or inner in in_use]
        gone = [inner for inner in self._held if inner not in kept]
        self._held = kept
        if not kept and self._peft is not None:
            self._peft, self.base = None, self._peft.unload()
            return
        for inner in gone:
            self._peft.set_adapter(kept[0])
            self._peft.delete_adapter(inner)

    def forward(self, rows: Sequence[str], **inputs: Any) -> Any:
        """Compute one step; `rows` has what `inner` said for each row."""
        if self._peft is None:
            return self.base(**inputs)
        return self._peft(adapter_names=[row if row in self._held else BASE for row in rows], **inputs)
