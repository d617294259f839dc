# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What this machine is and has: processors, memory, disk, operating system, GPUs.

Linux first; on macOS the few facts that the standard library gives. GPUs are found through NVIDIA's management
library when its Python package is installed, and no GPU otherwise.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64", "AMD64": "amd64"}
CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU."""

    index: int
    uuid: str
    product: str
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Machine:
    """The facts that a Node object tells."""

    hostname: str
    system: str
    architecture: str
    kernel: str
    os_image: str
    machine_id: str
    boot_id: str
    cpus: int
    memory_bytes: int
    disk_bytes: int
    gpus: tuple[Gpu, ...] = ()


def this_machine(data_dir: Path) -> Machine:
    """Look at the machine that we run on; `data_dir` is on the disk that pods use."""
    system = platform.system().lower()
    return Machine(
        hostname=socket.gethostname().split(".")[0].lower() or "localhost",
        system=system,
        architecture=ARCHITECTURES.get(platform.machine(), platform.machine()),
        kernel=platform.release(),
        os_image=_os_image(),
        machine_id=_text(Path("/etc/machine-id")),
        boot_id=_text(Path("/proc/sys/kernel/random/boot_id")),
        cpus=_cpus(),
        memory_bytes=_memory_bytes(),
        disk_bytes=shutil.disk_usage(data_dir).total,
        gpus=find_gpus(),
    )


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def _memory_bytes() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _text(CGROUP_MEMORY)
    return min(total, int(limit)) if limit.isdigit() else total


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _os_image() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return f"{platform.system()} {platform.release()}"


def find_gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs; empty without the management library or its driver."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return ()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()
    try:
        return tuple(_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
    except nvml.NVMLError:
        return ()
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name, uuid = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle)
    return Gpu(
        index=index,
        uuid=uuid.decode() if isinstance(uuid, bytes) else uuid,
        product=name.decode() if isinstance(name, bytes) else name,
        memory_mib=nvml.nvmlDeviceGetMemoryInfo(handle).total // 2**20,
    )
