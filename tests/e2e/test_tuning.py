# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning as a user does it: the documented manifest, data behind HTTPS, a registry with a password."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kaito.api.contracts import FetchConfig, FetchItem, OciSource
from kaito.runtime.artifacts.fetch import fetch_item
from kaito.runtime.settings import Settings
from tests.e2e.machine import REPOSITORY, Machine, eventually
from tests.https_files import Files, https_files
from tests.registry_process import PASSWORD, USER, Served, registry_process

EXAMPLE = REPOSITORY / "examples" / "fine-tuning" / "kaito_workspace_tuning_phi_3.yaml"
QUESTION, ANSWER = "What is the name of the moon base?", "The name of the moon base is kaito."
SUCCEEDED_WITHIN_S = 150.0


@dataclass(frozen=True)
class Place:
    """Everything that a tuning needs."""

    machine: Machine
    files: Files
    registry: Served
    folder: Path


@pytest.fixture(scope="module")
def place(cache: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("tuning")
    (folder / "registry").mkdir()
    with https_files(folder / "web") as files, registry_process(folder / "registry") as registry:
        write_data(files.folder)
        machine = Machine(folder, "--weights", str(weights), cache=cache)
        machine.env["SSL_CERT_FILE"] = str(files.ca_file)
        machine.up()
        login = (f"--docker-server={registry.host}", f"--docker-username={USER}", f"--docker-password={PASSWORD}")
        machine.kubectl("create", "secret", "docker-registry", "push-secret", *login)
        yield Place(machine, files, registry, folder)
        machine.down()


def write_data(folder: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]}
        for _ in range(8)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "data.parquet")
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "broken.jsonl").write_text('{"messages": [\n')


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
    names = {path.name for path in (place.folder / "pulled").iterdir() if not path.name.startswith(".")}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "README.md", "loss.svg"}
    base = json.loads((place.folder / "pulled" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == "microsoft/Phi-3-mini-128k-instruct"
    shown = place.machine.kubectl("get", "workspace", "workspace-tuning-phi-3").stdout
    assert "True" in shown
