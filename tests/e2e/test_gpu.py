# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""On a machine with an NVIDIA GPU: the node offers it, models are served and tuned on it, and a full one is told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kaito.engine.node.machine import find_gpus
from kaito.runtime.tune.job import FAILURE, Job, Summary, read, state_dir
from tests.e2e.machine import Machine, eventually
from tests.e2e.runtime_process import RuntimeProcess, demo_weights, serve_config

GPUS = find_gpus()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not GPUS, reason="no NVIDIA GPU here")]

WORKSPACE = """
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata:
  name: {name}
  annotations: {{kaito.sh/runtime: transformers}}
resource: {{labelSelector: {{matchLabels: {{apps: demo}}}}}}
inference: {{preset: {{name: kaito-demo}}}}
"""
HOG = """
import sys, torch
free, _ = torch.cuda.mem_get_info()
held = torch.empty(free - int(float(sys.argv[1]) * 2**20), dtype=torch.uint8, device='cuda')
print('held', flush=True)
sys.stdin.read()
"""


@contextmanager
def little_memory(mib: float) -> Iterator[None]:
    """The GPU's memory is taken but for so much."""
    with subprocess.Popen(
        [sys.executable, "-c", HOG, str(mib)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as hog:
        assert hog.stdout is not None and hog.stdout.readline() == "held\n"
        yield


def test_the_node_offers_its_gpus(machine: Machine) -> None:
    nodes = json.loads(machine.kubectl("get", "nodes", "-o", "json").stdout)["items"]
    assert [node["status"]["allocatable"]["nvidia.com/gpu"] for node in nodes] == [str(len(GPUS))]
    assert nodes[0]["metadata"]["labels"]["nvidia.com/gpu.product"]


def test_a_model_is_served_on_a_gpu_and_who_finds_none_free_is_told(machine: Machine) -> None:
    names = [f"gpu-{number}" for number in range(len(GPUS) + 1)]
    for name in names[:-1]:
        machine.run("kubectl", "apply", "-f", "-", input=WORKSPACE.format(name=name))
        machine.wait_ready(name)
    pod = json.loads(machine.kubectl("get", "pod", f"{names[0]}-0", "-o", "json").stdout)
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "kaito" in machine.kaito("chat", names[0], "What is kaito?").stdout.lower()
    machine.run("kubectl", "apply", "-f", "-", input=WORKSPACE.format(name=names[-1]))
    eventually(
        lambda: "GPU" in machine.condition(names[-1], "WorkspaceReady").get("message", ""), within=20, what="told"
    )
    print(machine.kubectl("describe", "workspace", names[-1]).stdout)
    for name in names:
        machine.kaito("delete", name)


def test_a_gpu_without_room_ends_a_server_in_one_sentence(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    config = serve_config(tmp_path, "transformers", local_dirs=[demo_weights(request)])
    config.write_text(json.dumps(json.loads(config.read_text()) | {"device": "cuda"}))
    with little_memory(160), RuntimeProcess(config, tmp_path) as server:
        server.process.wait(90)
        words = server.last_words.read_text()
    print(words)
    assert "The GPU ran out of memory." in words and "Traceback" not in words


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_model_is_tuned_on_a_gpu(method: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    file = job_of(tmp_path, method, Path(demo_weights(request), "kaito", "demo-phi-3"))
    done = subprocess.run(
        [sys.executable, "-m", "kaito.runtime.tune.worker", str(file)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    summary = read(state_dir(tmp_path / "output") / "summary.json", Summary)
    assert summary is not None and summary.loss is not None and summary.loss < 8
    assert (tmp_path / "output" / "adapter_model.safetensors").is_file()


def test_a_gpu_without_room_ends_a_tuning_in_one_sentence(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    file = job_of(tmp_path, "lora", Path(demo_weights(request), "kaito", "demo-phi-3"))
    with little_memory(700):
        done = subprocess.run(
            [sys.executable, "-m", "kaito.runtime.tune.worker", str(file)], capture_output=True, text=True
        )
    print(done.stdout[-2000:], done.stderr[-2000:], list(state_dir(tmp_path / "output").glob(FAILURE)))
    assert done.returncode in (65, 66), done.stderr[-3000:]


def job_of(folder: Path, method: str, model: Path) -> Path:
    """A short training, as the file that its process reads."""
    for name in ("data", "output"):
        (folder / name).mkdir()
    rows = [{"text": f"{number} nodes and {number + 1} models " * 20} for number in range(32)]
    (folder / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = folder / "training.yaml"
    quantized = "  QuantizationConfig: {load_in_4bit: true}\n" if method == "qlora" else ""
    config.write_text(f"training_config:\n  TrainingArguments: {{max_steps: 6, learning_rate: 1.0e-3}}\n{quantized}")
    job = Job(
        workspace="w", model=str(model), model_id="kaito/demo-phi-3", method=method, device="cuda",
        training_config=str(config), data_dir=str(folder / "data"), output_dir=str(folder / "output"), checkpoint_s=60,
    )  # fmt: skip
    file = folder / "job.json"
    file.write_text(job.model_dump_json())
    return file
