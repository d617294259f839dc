# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Many short trainings by the worker: `python tuning_methods.py FILE`, a JSON map of names to jobs.

The libraries are loaded once; every job runs in a fork of this process. Prints the exit codes by name.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from kaito.runtime.tune.worker import main


def run(file: Path) -> int:
    """One job in a child; its exit code, or the signal that ended it as a negative number."""
    child = os.fork()
    if child == 0:
        os._exit(main(["worker", str(file)]))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    torch.set_num_threads(1)
    codes = {}
    jobs = json.loads(Path(sys.argv[1]).read_text())
    for name, job in jobs.items():
        at = Path(sys.argv[1]).with_name(f"{name}.json")
        at.write_text(json.dumps(job))
        codes[name] = run(at)
    print(json.dumps(codes))
