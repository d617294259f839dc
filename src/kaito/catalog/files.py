# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the data files of this package. Nothing but YAML is loaded for it, so that small processes can use them."""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml

# The C twin of the safe loader is ten times as fast; not every build of the library has it.
_SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_data(*path: str) -> dict[str, Any]:
    """A YAML file of this package's data folder."""
    text = resources.files("kaito.catalog").joinpath("data", *path).read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.load(text, Loader=_SAFE_LOADER)
    return data
