# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A training that is killed again and again, beside one that is not: `python tuning_resume.py FOLDER MODEL KILLS`.

The libraries are loaded once; every run is a fork of this process, killed without warning. Prints both final losses.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

from kaito.runtime.tune.checkpoints import checkpoints
from kaito.runtime.tune.job import SENTINEL, Job, Summary, read, state_dir
from kaito.runtime.tune.worker import main

STEPS = 32


def job_of(folder: Path, model: str, name: str) -> Path:
    output = folder / name
    output.mkdir()
    job = Job(
        workspace="w", model=model, model_id="kaito/demo-phi-3", method="lora", device="cpu",
        training_config=str(folder / "training.yaml"), data_dir=str(folder / "data"), output_dir=str(output),
        checkpoint_s=0.001,
    )  # fmt: skip
    file = folder / f"{name}.json"
    file.write_text(job.model_dump_json())
    return file


def run(file: Path, kill_after: int | None, output: Path, within_s: float = 0.05) -> bool:
    """One run in a child; killed, if asked, at some moment after it has written so many checkpoints more. Whether it
    ended by itself."""
    before = len_of(output)
    child = os.fork()
    if child == 0:
        os._exit(main(["worker", str(file)]))
    while kill_after is not None:
        ended, _ = os.waitpid(child, os.WNOHANG)
        if ended:
            return True
        if len_of(output) >= before + kill_after:
            time.sleep(random.random() * within_s)
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(0.001)
    _, status = os.waitpid(child, 0)
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0


def len_of(output: Path) -> int:
    """The step of the newest checkpoint, whole or not."""
    return max((step for step, _ in checkpoints(output)), default=0)


def losses(output: Path) -> tuple[float | None, float | None, int]:
    """The final losses, of the training and of the evaluation, and the steps that they took."""
    found = read(state_dir(output) / "summary.json", Summary)
    assert found is not None
    return found.loss, found.eval_loss, found.steps


def compare(folder: Path, model: str, kills: int) -> None:
    torch.set_num_threads(1)
    dice = random.Random(7)
    whole, broken = (job_of(folder, model, name) for name in ("whole", "broken"))
    assert run(whole, None, folder / "whole")
    reached: list[int] = []
    while len(reached) < kills:
        further = dice.choice((0, 1, 2, 2)) if len_of(folder / "broken") < STEPS - 6 else 0
        # In the last steps only while it begins, which takes half a second: it must not end by itself before.
        ended = run(broken, further, folder / "broken", 0.05 if further else 0.3)
        assert not ended, "it is killed before it can end"
        reached.append(len_of(folder / "broken"))
    assert run(broken, None, folder / "broken")
    told = {"killed": reached, "whole": losses(folder / "whole"), "broken": losses(folder / "broken")}
    for name in (SENTINEL, "adapter_model.safetensors"):
        (folder / "broken" / name).unlink()
    assert run(broken, None, folder / "broken")
    adapters = [(folder / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "broken")]
    print(json.dumps({**told, "again": losses(folder / "broken"), "is_same": adapters[0] == adapters[1]}))
    shutil.rmtree(folder / "broken")


if __name__ == "__main__":
    compare(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
