# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What runs before the engine must not import one: a missing weight is told within seconds."""

from __future__ import annotations

import subprocess
import sys


def test_the_entry_point_imports_no_engine() -> None:
    heavy = "{'torch', 'vllm', 'transformers', 'tokenizers', 'numpy', 'kaito.kube', 'kaito.operator', 'kaito.engine'}"
    code = f"import sys, kaito.runtime.__main__; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
