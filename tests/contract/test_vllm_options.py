# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The table of vLLM's options that a user's configuration is checked against is that of the vLLM that is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_is_that_of_the_installed_vllm() -> None:
    tool = ROOT / "tools" / "vllm_options.py"
    done = subprocess.run([sys.executable, str(tool)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    table = ROOT / "src" / "kaito" / "catalog" / "data" / "vllm_options.json"
    written = done.stdout[done.stdout.index('{"version"') :]  # vLLM logs to standard output.
    assert written == table.read_text(), f"out of date: {sys.executable} {tool} > {table}"
