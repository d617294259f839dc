# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the processes of one training agree on while they train: when to save and stop, and what a checkpoint holds.

Rank 0's node keeps the checkpoints, with the random numbers of all processes in them, and hands the newest one to the
other nodes when a training goes on: no folder has to be shared. A process that is alone does none of this.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import torch
import torch.distributed as dist

from kaito.runtime.tune.checkpoints import MARK, checkpoints, newest

CHUNK_BYTES = 64 << 20


def is_alone() -> bool:
    """Whether this process trains by itself."""
    return not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)


def _device() -> torch.device:
    """Where the processes' backend takes tensors from."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def agreed(*wishes: bool) -> list[bool]:
    """Each wish as soon as one process has it: all do the same at the same step."""
    if is_alone():
        return list(wishes)
    flags = torch.tensor([int(wish) for wish in wishes], device=_device())
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in flags.tolist()]


def least_of_all(number: int) -> int:
    """The least of all processes' numbers."""
    if is_alone():
        return number
    found = torch.tensor([number], device=_device())
    dist.all_reduce(found, op=dist.ReduceOp.MIN)
    return int(found.item())


def is_same(text: str) -> bool:
    """Whether all processes have the same."""
    if is_alone():
        return True
    texts: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(texts, text)
    return len(set(texts)) == 1


def collect_random_state(checkpoint: Path, *, on_first_node: bool) -> None:
    """Bring every process's random numbers into the checkpoint of rank 0; returns when all are there. Elsewhere
    nothing is kept of it."""
    if is_alone():
        return
    rank = dist.get_rank()
    mine = checkpoint / f"rng_state_{rank}.pth"
    states: list[bytes | None] = [None] * dist.get_world_size()
    dist.all_gather_object(states, mine.read_bytes() if mine.is_file() else None)
    if rank == 0:
        for index, state in enumerate(states):
            path = checkpoint / f"rng_state_{index}.pth"
            if state is not None and not path.is_file():
                path.write_bytes(state)
    elif not on_first_node:
        mine.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            checkpoint.rmdir()


def shared_checkpoint(output_dir: Path, *, on_first_node: bool, is_first_of_node: bool) -> Path | None:
    """The newest whole checkpoint of rank 0, in this node's output folder; None when there is none."""
    if is_alone():
        return newest(output_dir)
    found = newest(output_dir) if dist.get_rank() == 0 else None
    files = sorted(path.relative_to(found).as_posix() for path in found.rglob("*") if path.is_file()) if found else []
    sizes = [(name, (found / name).stat().st_size) for name in files] if found else []
    told = [(found.name, sizes) if found else None]
    dist.broadcast_object_list(told, src=0)
    if told[0] is None:
        return None
    name, sizes = told[0]
    place = output_dir / name
    writes = is_first_of_node and not on_first_node
    if writes:
        for _, old in checkpoints(output_dir):
            shutil.rmtree(old)
    for file, size in sizes:
        if writes:
            (place / file).parent.mkdir(parents=True, exist_ok=True)
        _hand_over(place / file, size, reads=found is not None, writes=writes)
    dist.barrier()
    return place if (place / MARK).is_file() else None


def _hand_over(path: Path, size: int, *, reads: bool, writes: bool) -> None:
    """One file from rank 0 to all."""
    device = _device()
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(path.open("rb")) if reads else None
        target = stack.enter_context(path.open("wb")) if writes else None
        for start in range(0, size, CHUNK_BYTES):
            length = min(CHUNK_BYTES, size - start)
            chunk = torch.empty(length, dtype=torch.uint8)
            if source is not None:
                chunk = torch.frombuffer(bytearray(source.read(length)), dtype=torch.uint8)
            moved = chunk.to(device)
            dist.broadcast(moved, src=0)
            if target is not None:
                target.write(moved.cpu().numpy().tobytes())
        if target is not None:
            target.flush()
            os.fsync(target.fileno())
