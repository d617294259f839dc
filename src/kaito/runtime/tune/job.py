# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the front of a tuning pod hands to the process that trains, and what comes back: files in a state folder.

The front (`app.py`) fetches, watches and pushes and never loads torch; the worker (`worker.py`) checks the data, trains
and saves. Everything of a run that must outlive either lies in the state folder, beside the result.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from kaito.api.contracts import Contract, TuningMethod

STATE = ".kaito"
"""Below the output folder; hidden, so that it is not pushed."""
FAILURE = "failure.json"
"""In the state folder: why a job failed."""
STOPPED, FAILED, OUT_OF_MEMORY = 75, 65, 66
"""Exit codes of the processes that do a job: a checkpoint was written, there is a Failure, a smaller batch may do."""
SENTINEL = "fine_tuning_completed.txt"
"""As KAITO has it: there when the result is whole."""

_Model = TypeVar("_Model", bound=BaseModel)


class Job(Contract):
    """A training, with every path as this machine has it."""

    workspace: str
    model: str
    """A folder, or the id for the library to download."""
    model_id: str
    revision: str | None = None
    download_dir: str | None = None
    preset: str = ""
    method: TuningMethod
    device: str
    trust_remote_code: bool = False
    training_config: str
    data_dir: str
    data_sets: tuple[str, ...] = ()
    """Those of the data that come from a hub, for the model card."""
    output_dir: str
    checkpoint_s: float
    merge: bool = False
    batch_divisor: int = 1
    """The micro batch is divided by it: 2 after the GPU ran out of memory."""


class Summary(Contract):
    """What a finished training came to."""

    steps: int
    rows: int
    tokens: int
    loss: float | None
    eval_loss: float | None
    seconds: float
    tokens_per_second: float | None
    data_sha256: str
    notes: tuple[str, ...] = ()


class Point(BaseModel):
    """One logged step."""

    model_config = ConfigDict(frozen=True)

    step: int
    loss: float | None = None
    eval_loss: float | None = None


def state_dir(output_dir: Path) -> Path:
    """The folder with the state of a run."""
    return output_dir / STATE


def write(path: Path, value: BaseModel) -> None:
    """Write the value whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.part")
    with scratch.open("w", encoding="utf-8") as file:
        file.write(value.model_dump_json())
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(path)


def read(path: Path, kind: type[_Model]) -> _Model | None:
    """The value; None when the file is not there or holds none."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
