# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A training whose node is lost again and again, with all that lay on it: `python tuning_moves.py FOLDER MODEL HOST`.

Every run is a fork of this process on a "node" of its own, an empty folder; only the registry stays. Prints how often
a node was lost, at which steps others went on, and the final losses beside those of a run that was left alone.
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

from kaito.api.contracts import ModelSource, TuneConfig, TuneTarget
from kaito.runtime.settings import Settings
from kaito.runtime.tune.job import SENTINEL, Job
from kaito.runtime.tune.shipping import Shipping, restored, shipping_of
from kaito.runtime.tune.worker import main
from tests.e2e.tuning_resume import losses


def config_of(folder: Path, output: Path, host: str) -> TuneConfig:
    place = TuneTarget(image=f"{host}/team/moves:checkpoint", credentials=(str(folder / "login.json"),))
    return TuneConfig(
        workspace="w", namespace="", device="cpu", method="lora", model=ModelSource(id="kaito/demo-phi-3"),
        training_config=str(folder / "training.yaml"), data_dir=str(folder / "data"), output_dir=str(output),
        checkpoint_s=0.001, checkpoints=place,
    )  # fmt: skip


def start(folder: Path, model: str, output: Path) -> int:
    """The worker in a child; its process id."""
    job = Job(
        workspace="w", model=model, model_id="kaito/demo-phi-3", method="lora", device="cpu",
        training_config=str(folder / "training.yaml"), data_dir=str(folder / "data"), output_dir=str(output),
        checkpoint_s=0.001,
    )  # fmt: skip
    file = folder / "job.json"
    file.write_text(job.model_dump_json())
    child = os.fork()
    if child == 0:
        os._exit(main(["worker", str(file)]))
    return child


def until_further(child: int, shipping: Shipping, begun: int) -> bool:
    """Wait until the registry has a later checkpoint and kill the child; whether it ended by itself before."""
    while True:
        ended, _ = os.waitpid(child, os.WNOHANG)
        if ended:
            return True
        if shipping.sent > begun:
            time.sleep(random.random() * 0.1)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.001)


def compare(folder: Path, model: str, host: str) -> None:
    torch.set_num_threads(1)
    random.seed(7)
    (folder / "whole").mkdir()
    os.waitpid(start(folder, model, folder / "whole"), 0)
    lost, begins, node = 0, [], folder / "node"
    while True:
        node.mkdir()
        config = config_of(folder, node, host)
        shipping = shipping_of(config, node, Settings())
        assert shipping is not None and config.checkpoints is not None
        shipping.look_s = 0.01
        restored(shipping, config, config.checkpoints, Settings())
        begins.append(shipping.sent)
        child = start(folder, model, node)
        shipping.start()
        by_itself = until_further(child, shipping, shipping.sent)
        shipping.end(send=False)
        if by_itself and (node / SENTINEL).is_file():
            break
        lost += 1
        shutil.rmtree(node)
    print(json.dumps({"lost": lost, "begins": begins, "whole": losses(folder / "whole"), "moved": losses(node)}))


if __name__ == "__main__":
    compare(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
