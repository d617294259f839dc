# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters of a transformers model, each row of a batch with its own (PEFT's mixed batches).

Every method runs on the thread that computes: PEFT changes the model's modules in their place. PEFT is imported when
the first adapter comes.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
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
        self._count = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that can be asked for."""
        return tuple(self._inner)

    def load(self, name: str, folder: str) -> None:
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
        if name in self._inner:
            self.unload(name)
        self._inner[name] = inner

    def unload(self, name: str) -> None:
        """Take an adapter out; raises KeyError when there is none of the name."""
        self._peft.delete_adapter(self._inner.pop(name))
        if not self._inner:
            self._peft, self.base = None, self._peft.unload()

    def forward(self, adapters: Sequence[str], **inputs: Any) -> Any:
        """Compute one step; `adapters` has a name for each row, empty for the model alone."""
        if self._peft is None:
            return self.base(**inputs)
        return self._peft(adapter_names=[self._inner.get(name, BASE) for name in adapters], **inputs)
