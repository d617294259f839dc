# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""One tuning in two pods: real ranks that meet, one of them killed, and the loss of a training left in peace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kaito.runtime.tune.job import Summary
from tests.e2e.machine import Machine, eventually, kill_9, pids_below

SUCCEEDED_WITHIN_S = 240.0
STEPS = 50
TRAINING = f"""
training_config:
  LoraConfig: {{r: 4, lora_alpha: 8, lora_dropout: 0.1}}
  TrainingArguments:
    per_device_train_batch_size: 2
    max_length: 16
    max_steps: {STEPS}
    learning_rate: 1.0e-3
    save_strategy: steps
    save_steps: 1
  DatasetConfig: {{train_test_split: 0.9}}
"""


@pytest.fixture(scope="module")
def place(cache: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("nodes")
    (folder / "rows").mkdir()
    rows = [{"text": f"Stone {n} is {'blue' if n % 3 else 'red'}, and so on."} for n in range(60)]
    (folder / "rows" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "training_config.yaml").write_text(TRAINING)
    machine = Machine(folder, "--weights", str(weights), cache=cache)
    machine.up()
    machine.kubectl("create", "configmap", "training", f"--from-file={folder / 'training_config.yaml'}")
    yield machine
    machine.down()


def tune(machine: Machine, name: str) -> Path:
    """Begin a tuning in two pods; the folder with its output."""
    output = machine.folder / name
    output.mkdir()
    manifest = {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": name},
        "resource": {"count": 2, "labelSelector": {"matchLabels": {"apps": name}}},
        "tuning": {
            "preset": {"name": "phi-3-mini-128k-instruct"},
            "method": "lora",
            "config": "training",
            "input": {"volumeSource": {"hostPath": {"path": str(machine.folder / "rows")}}},
            "output": {"volumeSource": {"hostPath": {"path": str(output)}}},
        },
    }
    machine.run("kubectl", "apply", "-f", "-", input=yaml.safe_dump(manifest))
    return output


def wait_for(machine: Machine, name: str, output: Path) -> Summary:
    """What the training came to, once the Workspace has succeeded."""

    def is_there() -> bool:
        state = (machine.workspace(name).get("status") or {}).get("state")
        assert state != "Failed", machine.workspace(name)["status"]
        return bool(state == "Succeeded")

    eventually(is_there, within=SUCCEEDED_WITHIN_S, what=f"{name} has succeeded")
    return Summary.model_validate_json((output / ".kaito" / "summary.json").read_bytes())


def front_of(machine: Machine, name: str, rank: int) -> int | None:
    """The process of a rank's front."""
    marks = (f"JOB_COMPLETION_INDEX={rank}", f"HOSTNAME={name}-{rank}")
    for pid in pids_below(machine.folder, "tune --config"):
        try:
            variables = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
            words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        except OSError:
            continue
        if all(mark in variables for mark in marks) and "shim" not in words:
            return pid
    return None


def steps(output: Path) -> int:
    return max((int(path.name.partition("-")[2]) for path in output.glob("checkpoint-*")), default=0)


@pytest.fixture(scope="module")
def whole(place: Machine) -> Summary:
    """A tuning that nobody disturbs."""
    return wait_for(place, "whole", tune(place, "whole"))


def test_two_pods_train_one_model(place: Machine, whole: Summary) -> None:
    assert whole.steps == STEPS
    status = place.workspace("whole")["status"]
    assert (status["tuning"]["phase"], status["tuning"]["step"]) == ("Done", STEPS)
    job = json.loads(place.kubectl("get", "job", "whole", "-o", "json").stdout)
    assert job["spec"]["completionMode"] == "Indexed"
    assert any(one["type"] == "Complete" and one["status"] == "True" for one in job["status"]["conditions"])
    assert (place.folder / "whole" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("rank", [1, 0])
def test_a_rank_that_is_killed_costs_nothing_but_time(place: Machine, whole: Summary, rank: int) -> None:
    name = f"broken-{rank}"
    output = tune(place, name)
    eventually(lambda: steps(output) >= 3, within=SUCCEEDED_WITHIN_S, what="three steps are done")
    front = front_of(place, name, rank)
    assert front is not None
    kill_9(front)
    assert steps(output) < STEPS
    broken = wait_for(place, name, output)
    assert broken.loss == pytest.approx(whole.loss, abs=1e-6)
    assert broken.eval_loss == pytest.approx(whole.eval_loss, abs=1e-6)
    first = f"kaito.sh/workspace={name},batch.kubernetes.io/job-completion-index=0"
    pods = json.loads(place.kubectl("get", "pods", "-l", first, "-o", "json").stdout)["items"]
    assert len(pods) == (2 if rank == 0 else 1), "a rank that loses another one keeps its pod"
