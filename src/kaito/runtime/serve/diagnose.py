# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Reads an engine's output: which phase of its start a line announces, and why it ended. Pure.

The rules are a table of what the engines print; the first that matches the most telling line wins.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from kaito.api.contracts import Engine, Failure
from kaito.api.names import (
    REASON_CONFIG_INVALID,
    REASON_CUDA,
    REASON_CUDA_MEMORY,
    REASON_ENGINE_FAILED,
    REASON_ENGINE_MISSING,
    REASON_KV_CACHE,
    REASON_NCCL,
    REASON_NO_GPU,
    REASON_OOM_KILLED,
    REASON_UNKNOWN_FLAG,
    REASON_WEIGHTS_NOT_FOUND,
)

LOADING = "Loading the weights"
PHASES: dict[Engine, tuple[tuple[str, str], ...]] = {
    "vllm": (
        ("non-default args", "Checking the model"),
        ("Initializing a V1 LLM engine", "Starting the engine"),
        ("Starting to load model", LOADING),
        ("Loading weights took", "Reserving the KV cache"),
        ("Start compiling function", "Compiling the model"),
        ("init engine", "Opening the API"),
    ),
    "transformers": (
        ("Loading weights", LOADING),
        ("Opening the API", "Opening the API"),
    ),
}

MEMORY_FIX = "Use a smaller model or a smaller max-model-len, or a machine with more memory."
GPU_MEMORY_FIX = "Use a smaller max-model-len, a lower gpu-memory-utilization, or bigger or more GPUs."
CONFIG_FIX = "Correct the option in the ConfigMap that inference.config names."

RULES: tuple[tuple[str, str, str, str], ...] = (
    (
        r"unrecognized arguments: (?P<what>.+)",
        REASON_UNKNOWN_FLAG,
        "The engine does not know the option {what}.",
        CONFIG_FIX,
    ),
    (
        r"No such option:? (?P<what>\S+)",
        REASON_UNKNOWN_FLAG,
        "The engine does not know the option {what}.",
        CONFIG_FIX,
    ),
    (r"error: argument (?P<what>.+)", REASON_CONFIG_INVALID, "The engine refuses the option {what}.", CONFIG_FIX),
    (r"Invalid value for (?P<what>.+)", REASON_CONFIG_INVALID, "The engine refuses the option {what}.", CONFIG_FIX),
    (
        r"CUDA (?:error: )?out of memory|torch\.(?:cuda\.)?OutOfMemoryError|HIP out of memory",
        REASON_CUDA_MEMORY,
        "The GPU ran out of memory.",
        GPU_MEMORY_FIX,
    ),
    (
        r"No available memory for the cache blocks|larger than the maximum number of tokens that can be stored in KV"
        r"|less than desired (?:GPU|CPU) memory utilization",
        REASON_KV_CACHE,
        "The model leaves too little memory for its KV cache.",
        GPU_MEMORY_FIX,
    ),
    (
        r"DefaultCPUAllocator: can't allocate memory|MemoryError",
        REASON_ENGINE_FAILED,
        "The machine ran out of memory.",
        MEMORY_FIX,
    ),
    (
        r"(?P<what>No CUDA GPUs are available|CUDA driver version is insufficient[^\n]*|Found no NVIDIA driver[^\n]*)",
        REASON_NO_GPU,
        "The engine found no usable GPU: {what}.",
        "Check the node's NVIDIA driver and device plugin, or run on a CPU.",
    ),
    (
        r"(?P<what>CUDA error: [^\n]{1,120}|an illegal memory access was encountered|uncorrectable ECC error[^\n]{0,80}"
        r"|CUBLAS_STATUS_\w+|GPU has fallen off the bus|Xid[^\n]{1,60})",
        REASON_CUDA,
        "The GPU reported an error: {what}.",
        "The pod starts again. If it recurs, the GPU or its driver is at fault: move the Workspace to another node.",
    ),
    (
        r"(?P<what>NCCL error[^\n]{0,120}|ncclSystemError|ncclUnhandledCudaError|ncclRemoteError)",
        REASON_NCCL,
        "The GPUs could not talk to each other: {what}.",
        "The pod starts again. If it recurs, check the network between the nodes and their GPUs.",
    ),
    (
        r"No module named '?(?P<what>[\w.]+)'?",
        REASON_ENGINE_MISSING,
        "The engine needs the Python package {what}.",
        "Install it beside the engine, or use an image that has it.",
    ),
    (
        r"(?P<what>LocalEntryNotFoundError|is not a local folder and is not a valid model identifier|GatedRepoError)",
        REASON_WEIGHTS_NOT_FOUND,
        "The engine could not get the model's weights ({what}).",
        "Put the weights into a local folder and start with `kaito up --weights DIR`, or give access to the hub.",
    ),
    (
        r"[Aa]ddress already in use",
        REASON_ENGINE_FAILED,
        "The engine's own port was taken meanwhile.",
        "Nothing to do: the pod starts again.",
    ),
)

CORE_GONE = "engine core exited unexpectedly"
"""vLLM's API server ends in good order, with 0, when the process that computes was killed (vLLM 0.32, `MPClient`)."""
ERROR_LINE = re.compile(r"(?:^|[\s.])(?P<text>(?:\w+(?:Error|Exception)\b|error|ERROR|fatal)\s*:\s*\S.*)")
PREFIX = re.compile(r"^(?:\([^)]*pid=\d+\)\s*)?(?:[A-Z]+\s+[\d-]+\s+[\d:]+\s+\[[^\]]*\]\s*)?")
SECRET = re.compile(r"hf_[A-Za-z0-9]{8,}")


def phase_of(engine: Engine, line: str) -> str | None:
    """The phase that this line of output announces, or None."""
    return next((phase for mark, phase in PHASES[engine] if mark in line), None)


def bare(line: str) -> str:
    """The line without the log's prefixes and without secrets."""
    return SECRET.sub("hf_…", PREFIX.sub("", line).strip())


def last_error(lines: Sequence[str]) -> str | None:
    """The last line that names an error with a text, or None."""
    for line in reversed(lines):
        match = ERROR_LINE.search(bare(line))
        if match is not None and "EngineDeadError" not in line and "Engine core initialization failed" not in line:
            return match["text"][:400]
    return None


def how_it_ended(code: int) -> str:
    """An exit status in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def diagnose(engine: Engine, code: int, lines: Sequence[str], *, oom_kills: int = 0) -> Failure:
    """Why the engine ended, from its status, its last lines, and how often the kernel killed for memory meanwhile."""
    if oom_kills > 0:
        return Failure(
            reason=REASON_OOM_KILLED,
            message=f"The kernel killed the {engine} engine: the container's memory limit was reached.",
            next_step=MEMORY_FIX,
        )
    for pattern, reason, message, step in RULES:
        for line in reversed(lines):
            match = re.search(pattern, bare(line))
            if match is not None:
                what = (match.groupdict().get("what") or "").strip().rstrip(".")[:300]
                return Failure(reason=reason, message=message.format(what=what), next_step=step)
    if code == -signal.SIGKILL:
        return Failure(
            reason=REASON_OOM_KILLED,
            message=f"The {engine} engine was killed (SIGKILL); mostly that means that the machine's memory ran out.",
            next_step=MEMORY_FIX,
        )
    error = last_error(lines)
    if error is None and any(CORE_GONE in line for line in lines):
        return Failure(
            reason=REASON_ENGINE_FAILED,
            message=f"A process of the {engine} engine ended without a word: it was killed, or it crashed.",
            next_step="The pod starts again. If it recurs, the node's kernel log (dmesg) says whether memory ran out.",
        )
    detail = f": {error}" if error else "."
    return Failure(
        reason=REASON_ENGINE_FAILED,
        message=f"The {engine} engine ended with {how_it_ended(code)}{detail}",
        next_step="Read the pod's log for the lines before its end.",
    )
