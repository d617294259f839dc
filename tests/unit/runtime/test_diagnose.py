# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""An engine's output tells the phase of its start and the reason of its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaito.runtime.serve.diagnose import bare, diagnose, phase_of
from kaito.runtime.serve.memory import oom_kills

NOISE = ["INFO: Started server process [1]", "nanobind: leaked 4 instances!"]


@pytest.mark.parametrize(
    ("code", "line", "reason", "words"),
    [
        (
            2,
            "api_server.py: error: unrecognized arguments: --max-model-lem 5",
            "UnknownEngineOption",
            "--max-model-lem",
        ),
        (2, "No such option: --colour", "UnknownEngineOption", "--colour"),
        (2, "api_server.py: error: argument --dtype: invalid choice: 'x'", "InferenceConfigInvalid", "--dtype"),
        (1, "torch.AcceleratorError: CUDA error: out of memory", "GPUOutOfMemory", "GPU ran out of memory"),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried", "GPUOutOfMemory", "GPU ran out of memory"),
        (1, "ValueError: No available memory for the cache blocks.", "KVCacheTooSmall", "KV cache"),
        (1, "ModuleNotFoundError: No module named 'flash_attn'", "InferenceEngineMissing", "flash_attn"),
        (1, "RuntimeError: No CUDA GPUs are available", "GPUNotFound", "no usable GPU"),
        (1, "torch.AcceleratorError: CUDA error: an illegal memory access was", "CUDAError", "illegal memory access"),
        (1, "RuntimeError: NCCL error in: unhandled system error", "GPUCommunicationFailed", "unhandled system error"),
        (-9, "loading", "ContainerOOMKilled", "SIGKILL"),
        (-11, "loading", "InferenceEngineFailed", "SIGSEGV"),
        (3, "loading", "InferenceEngineFailed", "exit code 3"),
        (
            0,
            "(APIServer pid=7) WARNING 11-27 09:31:01 [core_client.py:818] [shutdown] MPClient: engine core exited"
            " unexpectedly; starting cleanup",
            "InferenceEngineFailed",
            "ended without a word",
        ),
        (
            1,
            "(EngineCore pid=7) ERROR 11-22 07:12:33 [core.py:9] ValueError: bad thing",
            "InferenceEngineFailed",
            "bad thing",
        ),
    ],
)
def test_an_end_is_explained(code: int, line: str, reason: str, words: str) -> None:
    failure = diagnose("vllm", code, ["Traceback (most recent call last):", line, *NOISE])
    assert failure.reason == reason
    assert words in failure.message
    assert failure.next_step and "\n" not in failure.message


def test_a_token_in_the_output_is_not_repeated() -> None:
    failure = diagnose("vllm", 1, ["ValueError: token hf_abcdefghijkl is wrong"])
    assert "abcdefghijkl" not in failure.message


def test_prefixes_of_the_log_are_left_out() -> None:
    assert bare("(APIServer pid=7) INFO 11-22 07:12:32 [entry.py:140] Starting") == "Starting"


@pytest.mark.parametrize(
    ("line", "phase"),
    [
        ("(Worker pid=1) INFO 11-22 07:11:11 [cpu.py:68] Starting to load model /m...", "Loading the weights"),
        ("Initializing a V1 LLM engine (v0.32.0)", "Starting the engine"),
        ("anything", None),
    ],
)
def test_a_phase_is_read_from_the_log(line: str, phase: str | None) -> None:
    assert phase_of("vllm", line) == phase


def test_a_kill_for_memory_is_told_from_others_by_the_cgroup(tmp_path: Path) -> None:
    failure = diagnose("vllm", -9, ["loading"], oom_kills=1)
    assert failure.reason == "ContainerOOMKilled" and "memory limit was reached" in failure.message
    assert "mostly" in diagnose("vllm", -9, ["loading"]).message
    assert oom_kills(tmp_path) == 0
    (tmp_path / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert oom_kills(tmp_path) == 2
