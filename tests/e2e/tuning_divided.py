# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Trainings by two processes each: `python -m tests.e2e.tuning_divided FILE`, a JSON list of pairs: a job, and the step
to be killed at, or 0.

The libraries are loaded once; every process is a fork of this one, and each training has ranks and a meeting place of
its own. Prints the exit codes of each.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed.fsdp
import torch.distributed.tensor

from kaito.runtime.tune.checkpoints import MARK
from kaito.runtime.tune.worker import main
from tests.engine_process import free_port

WORLD = 2


def start(file: Path, rank: int, port: int) -> int:
    """One rank in a child; its process id."""
    child = os.fork()
    if child == 0:
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORLD, "LOCAL_WORLD_SIZE": WORLD, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in places.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
        os._exit(main(["worker", str(file)]))
    return child


def train(job: dict[str, Any], kill_at: int, file: Path) -> list[int]:
    """All ranks to their end, or to the step; their exit codes, a signal as a negative number."""
    file.write_text(json.dumps(job))
    port = free_port()
    children = [start(file, rank, port) for rank in range(WORLD)]
    if kill_at:
        deadline = time.monotonic() + 120
        while not list(Path(job["output_dir"]).glob(f"checkpoint-{kill_at}/{MARK}")) and time.monotonic() < deadline:
            time.sleep(0.005)
        for child in children:
            os.kill(child, signal.SIGKILL)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


if __name__ == "__main__":
    torch.set_num_threads(1)
    runs = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps([train(job, kill_at, Path(sys.argv[1]).with_name("job.json")) for job, kill_at in runs]))
