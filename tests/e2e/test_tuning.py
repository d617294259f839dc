# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning as a user does it: the documented manifest, data behind HTTPS, a registry with a password."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from kaito.api import names
from kaito.api.contracts import FetchConfig, FetchItem, OciSource
from kaito.runtime.artifacts.fetch import fetch_item
from kaito.runtime.settings import Settings
from tests.e2e.machine import REPOSITORY, Machine, eventually
from tests.e2e.runtime_process import ENGINES
from tests.https_files import Files, https_files
from tests.hub_process import DataHub, data_hub
from tests.registry_process import PASSWORD, USER, Served, registry_process

EXAMPLE = REPOSITORY / "examples" / "fine-tuning" / "kaito_workspace_tuning_phi_3.yaml"
QUESTION, ANSWER = "What is the name of the moon base?", "The name of the moon base is kaito."
SUCCEEDED_WITHIN_S = 150.0


TEACHING = """
training_config:
  LoraConfig: {r: 16, lora_alpha: 32}
  TrainingArguments:
    learning_rate: 5.0e-3
    lr_scheduler_type: constant
    num_train_epochs: 100
    per_device_train_batch_size: 8
    max_length: 64
    assistant_only_loss: true
    save_strategy: "no"
"""
SERVING = """
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata:
  name: {name}
  annotations: {{kaito.sh/runtime: {engine}}}
resource: {{labelSelector: {{matchLabels: {{apps: {name}}}}}}}
inference:
  preset: {{name: phi-3-mini-128k-instruct}}
  adapters:
  - source: {source}
"""


@dataclass(frozen=True)
class Place:
    """Everything that a tuning needs."""

    machine: Machine
    files: Files
    registry: Served
    hub: DataHub
    folder: Path


@pytest.fixture(scope="module")
def place(cache: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("tuning")
    (folder / "registry").mkdir()
    with (
        https_files(folder / "web") as files,
        registry_process(folder / "registry", deletes=True) as registry,
        data_hub() as hub,
    ):
        write_data(files.folder)
        rows = (files.folder / "data.parquet").read_bytes()
        hub.commit("team/moon", {"data/train-00000-of-00001.parquet": rows, "data/test.jsonl": b"{}\n"})
        machine = Machine(folder, "--weights", str(weights), cache=cache)
        machine.env |= {"SSL_CERT_FILE": str(files.ca_file), "HF_ENDPOINT": hub.url}
        machine.up()
        login = (f"--docker-server={registry.host}", f"--docker-username={USER}", f"--docker-password={PASSWORD}")
        machine.kubectl("create", "secret", "docker-registry", "push-secret", *login)
        yield Place(machine, files, registry, hub, folder)
        machine.down()


def write_data(folder: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]}
        for _ in range(8)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "data.parquet")
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "broken.jsonl").write_text('{"messages": [\n')
    (folder / "empty.jsonl").write_text("\n")
    (folder / "columns.csv").write_text("a,b\n1,2\n")
    (folder / "blank.jsonl").write_text('{"text": ""}\n')
    (folder / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')


def documented(place: Place, image: str) -> str:
    """The documented manifest with an address, an image and a secret of this machine."""
    text = EXAMPLE.read_text()
    address = next(line for line in text.splitlines() if "https://" in line).strip().strip('- "')
    for theirs, ours in (
        (address, f"{place.files.url}/data.parquet?download=true"),
        ("ACR_REPO_HERE.azurecr.io/IMAGE_NAME_HERE:0.0.1", image),
        ("ACR_REGISTRY_SECRET_HERE", "push-secret"),
    ):
        assert theirs in text
        text = text.replace(theirs, ours)
    return text


def wait_for(place: Place, name: str, state: str) -> dict[str, object]:
    """The status once the Workspace has the state."""

    def there() -> bool:
        found = (place.machine.workspace(name).get("status") or {}).get("state")
        assert found in ("Pending", "Running", state, None), place.machine.workspace(name)["status"]
        return found == state

    eventually(there, within=SUCCEEDED_WITHIN_S, what=f"{name} is {state}")
    status: dict[str, object] = place.machine.workspace(name)["status"]
    return status


def test_the_documented_manifest_tunes_and_pushes(place: Place) -> None:
    image = f"{place.registry.host}/team/adapter:0.0.1"
    place.machine.run("kubectl", "apply", "-f", "-", input=documented(place, image))
    status = wait_for(place, "workspace-tuning-phi-3", "Succeeded")
    tuning = status["tuning"]
    assert isinstance(tuning, dict)
    assert (tuning["phase"], tuning["image"], tuning["rows"]) == ("Done", image, 8)
    manifest = place.registry.manifest("team/adapter", "0.0.1")
    assert manifest["annotations"] == {"sh.kaito.model.name": "phi-3-mini-128k-instruct"}
    item = FetchItem(
        name="adapter",
        source=OciSource(reference=f"{place.registry.host}/team/adapter@{tuning['digest']}"),
        destination=str(place.folder / "pulled"),
        credentials=(str(place.registry.login(place.folder / "login.json")),),
    )
    fetched = fetch_item(item, FetchConfig(items=(item,)), Settings())
    assert fetched.digest == tuning["digest"]
    found = {path.name for path in (place.folder / "pulled").iterdir() if not path.name.startswith(".")}
    assert found == {"adapter_config.json", "adapter_model.safetensors", "README.md", "loss.svg"}
    base = json.loads((place.folder / "pulled" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == "microsoft/Phi-3-mini-128k-instruct"
    shown = place.machine.kubectl("get", "workspace", "workspace-tuning-phi-3").stdout
    assert "True" in shown
    tags = place.registry.request("GET", "team/adapter/tags/list").json()["tags"]
    assert tags == ["0.0.1"], "no checkpoint is left when the result is there"


def tuning(place: Place, name: str, **changes: object) -> dict[str, object]:
    """Tune with LoRA on lines of JSON; the status of the Workspace that has succeeded."""
    manifest = yaml.safe_load(documented(place, "unused"))
    manifest["metadata"] |= {"name": name, "annotations": changes.pop("annotations", {})}
    source = {"urls": [f"{place.files.url}/data.jsonl"]}
    manifest["tuning"] |= {"method": "lora", "input": source, **changes}
    place.machine.run("kubectl", "apply", "-f", "-", input=yaml.safe_dump(manifest))
    return wait_for(place, name, "Succeeded")


@pytest.fixture(scope="module")
def taught(place: Place) -> str:
    """The image of an adapter that knows one answer more than its model."""
    folder = place.folder / "teaching"
    folder.mkdir()
    (folder / "training_config.yaml").write_text(TEACHING)
    place.machine.kubectl("create", "configmap", "teaching", f"--from-file={folder}")
    image = f"{place.registry.host}/team/taught:1"
    tuning(place, "teaching", config="teaching", output={"image": image, "imagePushSecret": "push-secret"})
    return image


@pytest.fixture(scope="module")
def taught_artifact(place: Place, taught: str) -> str:
    """The Workspace whose result is the same adapter as an artifact, of the same data out of a hub."""
    image = f"{place.registry.host}/team/taught-artifact:1"
    tuning(
        place,
        "teaching-artifact",
        annotations={"kaito.sh/output-format": "artifact"},
        config="teaching",
        input={"urls": ["hf://datasets/team/moon"]},
        output={"image": image, "imagePushSecret": "push-secret"},
    )
    manifest = place.registry.manifest("team/taught-artifact", "1")
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["annotations"]["kaito.sh/base-model"] == "microsoft/Phi-3-mini-128k-instruct"
    return "teaching-artifact"


@pytest.mark.parametrize("engine", ENGINES)
def test_what_was_pushed_is_served_and_knows_what_it_was_taught(
    place: Place, taught: str, taught_artifact: str, engine: str
) -> None:
    """An image by its name with one engine, an artifact as the result of its Workspace with the other."""
    name, image = f"with-{engine}", {"image": taught, "imagePullSecrets": ["push-secret"]}
    source = json.dumps({"name": "taught", **(image if engine == "vllm" else {"workspace": taught_artifact})})
    manifest = SERVING.format(name=name, engine=engine, source=source)
    place.machine.run("kubectl", "apply", "-f", "-", input=manifest)
    place.machine.wait_ready(name, timeout=200)
    assert place.machine.kaito("chat", name, QUESTION, "--model", "taught").stdout == f"{ANSWER}\n"
    assert ANSWER not in place.machine.kaito("chat", name, QUESTION).stdout
    data = str(place.files.folder / "data.jsonl")
    compared = place.machine.kaito("tune", "compare", name, "--data", data, "--rows", "1", "-o", "json").stdout
    (found,) = json.loads(compared)
    assert (found["prompt"], found["expected"], found["answers"]["taught"]) == (QUESTION, ANSWER, ANSWER)
    assert found["answers"]["phi-3-mini-128k-instruct"] != ANSWER
    place.machine.kaito("delete", name)


GOOD = ("data.jsonl",)
BAD: dict[str, tuple[str, tuple[str, ...], dict[str, object]]] = {
    "empty": (names.REASON_TUNING_DATA_EMPTY, ("empty.jsonl",), {}),
    "columns": (names.REASON_TUNING_COLUMNS, ("columns.csv",), {}),
    "blank": (names.REASON_TUNING_ROWS_EMPTY, ("blank.jsonl",), {}),
    "latin": (names.REASON_TUNING_ENCODING, ("latin.jsonl",), {}),
    "broken": (names.REASON_TUNING_FILE, (*GOOD, "broken.jsonl"), {}),
    "checksum": (names.REASON_ARTIFACT_INVALID, (f"data.jsonl#sha256={'0' * 64}",), {}),
    "model": (names.REASON_TUNING_MODEL, GOOD, {"preset": {"name": "gpt-oss-20b"}}),
    "key": (names.REASON_TUNING_CONFIG, GOOD, {"config": "mistaken"}),
    "no-secret": (names.REASON_MOUNT_SECRET, GOOD, {"secret": "not-there"}),
    "wrong-secret": (names.REASON_PUSH_UNAUTHORIZED, GOOD, {"secret": "wrong-secret"}),
}
"""By name: the reason that is told, the files of the data, and what else is other than it should be."""


def test_bad_input_has_a_reason_of_its_own_and_nothing_is_trained(place: Place) -> None:
    wrong = ("--docker-username=ann", "--docker-password=guess", f"--docker-server={place.registry.host}")
    place.machine.kubectl("create", "secret", "docker-registry", "wrong-secret", *wrong)
    mistaken = "training_config: {TrainingArguments: {lerning_rate: 1}}"
    place.machine.kubectl("create", "configmap", "mistaken", f"--from-literal=training_config.yaml={mistaken}")
    manifests = []
    for name, (_, files, changes) in BAD.items():
        manifest = yaml.safe_load(documented(place, f"{place.registry.host}/team/bad:{name}"))
        manifest["metadata"]["name"] = f"bad-{name}"
        changes = dict(changes)
        secret = changes.pop("secret", "push-secret")
        manifest["tuning"] |= {"method": "lora", "input": {"urls": [f"{place.files.url}/{file}" for file in files]}}
        manifest["tuning"]["output"]["imagePushSecret"] = secret
        manifest["tuning"] |= changes
        manifests.append(manifest)
    place.machine.run("kubectl", "apply", "-f", "-", input=yaml.safe_dump_all(manifests))

    def told() -> dict[str, str]:
        listed = json.loads(place.machine.kubectl("get", "workspaces", "-o", "json").stdout)["items"]
        status = {item["metadata"]["name"]: item.get("status") or {} for item in listed}
        return {name: (status[f"bad-{name}"].get("failure") or {}).get("reason", "") for name in BAD}

    expected = {name: reason for name, (reason, _, _) in BAD.items()}
    eventually(lambda: told() == expected, within=120, what=f"each has its reason, and not {told()}")
    for name in BAD:
        status = place.machine.workspace(f"bad-{name}")["status"]
        assert (status.get("tuning") or {}).get("phase") in (None, "Starting", "Fetching", "Checking"), status
        assert status["failure"]["nextStep"], status
        assert "guess" not in json.dumps(status)
        place.machine.kaito("delete", f"bad-{name}")
    assert place.registry.request("GET", "team/bad/tags/list").status == 404


def test_from_a_folder_into_a_folder_with_one_command(place: Place) -> None:
    data, folder = place.folder / "rows", place.folder / "result"
    data.mkdir()
    shutil.copy(place.files.folder / "data.jsonl", data)
    words = ("to-a-folder", "--model", "phi-3-mini-128k-instruct", "--data", str(data), "--output", str(folder))
    done = place.machine.kaito("tune", "run", *words, timeout=SUCCEEDED_WITHIN_S)
    assert "to-a-folder: Succeeded" in done.stdout
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in folder.rglob("*")}
    assert "Succeeded" in place.machine.kaito("get", "to-a-folder").stdout


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--data", "{bad}", "--output", "./result"), "latin.jsonl is not UTF-8 in line 1"),
        (("--data", "{url}", "--output", "localhost:1/a:1", "--push-secret", "none"), "There is no Secret none"),
    ],
    ids=["data", "secret"],
)
def test_what_can_be_known_before_is_said_before_anything_is_applied(
    place: Place, more: tuple[str, ...], says: str
) -> None:
    bad = place.folder / "latin"
    bad.mkdir(exist_ok=True)
    shutil.copy(place.files.folder / "latin.jsonl", bad)
    words = [word.format(bad=bad, url=f"{place.files.url}/data.jsonl") for word in more]
    done = place.machine.kaito("tune", "run", "never", "--model", "phi-3-mini-128k-instruct", *words, check=False)
    assert done.returncode == 1
    assert says in done.stderr
    assert place.machine.run("kubectl", "get", "workspace", "never", check=False).returncode == 1
