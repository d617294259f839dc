# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the engine and the command line do not load at their start, because it would take most of it."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        (
            "kaito.engine.__main__",
            {"cel_expr_python", "google.protobuf", "jsonschema", "kubernetes_validate", "pydantic", "torch"},
        ),
        ("kaito.cli.main", {"pydantic", "cel_expr_python", "uvicorn", "cryptography", "torch"}),
    ],
)
def test_what_is_needed_later_is_loaded_later(module: str, heavy: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}, sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert heavy & set(done.stdout.split()) == set()
