# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito tune run`: from a model, data and a place for the result to a fine-tuning that is watched to its end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kaito.api import datasets
from kaito.api.kinds import WORKSPACES
from kaito.api.names import OUTPUT_FORMAT_ANNOTATION
from kaito.cli import apply, connect, local, settings, tune
from kaito.cli.failure import UserError
from kaito.cli.options import Kubeconfig, Namespace
from kaito.kube.client import Client
from kaito.kube.errors import Forbidden, NotFound
from kaito.kube.manifest import Manifest
from kaito.kube.resource import SECRETS

SCHEMES = ("http://", "https://", datasets.SCHEME)
INSTEAD = "Give an https address, or write a manifest with an image or a volume: kaito tune run -f FILE"


@dataclass(frozen=True, slots=True)
class Wish:
    """A fine-tuning in the words of the command line."""

    name: str
    model: str
    method: str
    data: tuple[str, ...]
    output: str
    push_secret: str = ""
    is_artifact: bool = False
    config: str = ""
    """The text of a training_config.yaml."""
    instance_type: str = ""

    @property
    def uses_folders(self) -> bool:
        """Whether a folder of this machine is read or written."""
        return not self.data[0].startswith(SCHEMES) or is_folder(self.output)


def run(
    name: Annotated[str | None, typer.Argument(help="What to call the fine-tuning.")] = None,
    *,
    filename: Annotated[
        list[str] | None, typer.Option("--filename", "-f", help="Manifests with one fine-tuning, in place of the rest.")
    ] = None,
    model: Annotated[str, typer.Option(help="The model to tune: a preset, or a Hugging Face id.")] = "",
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="The data set: http(s) addresses, data sets of a hub as org/name, or, with kaito up, a folder."
        ),
    ] = None,
    output: Annotated[
        str, typer.Option(help="Where the result goes: an image as registry/name:tag, or, with kaito up, ./FOLDER.")
    ] = "",
    push_secret: Annotated[str, typer.Option(help="The Secret to push the image with.")] = "",
    artifact: Annotated[bool, typer.Option("--artifact", help="Push an OCI artifact in place of an image.")] = False,
    method: Annotated[str, typer.Option(help="lora, qlora, or full.")] = "lora",
    config: Annotated[Path | None, typer.Option(help="A training_config.yaml.")] = None,
    instance_type: Annotated[str, typer.Option(help="The machine to order for it.")] = "",
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Run a fine-tuning and watch it to its end; Ctrl-C leaves it running."""
    if filename:
        found = [manifest for source in filename for manifest in apply.manifests(source)]
    else:
        wish = wish_of(
            name, model, method, data, output, push_secret=push_secret, is_artifact=artifact,
            config=config, instance_type=instance_type,
        )  # fmt: skip
        check_place(wish, kubeconfig)
        check_data(wish)
        found = manifests(wish)
    tunings = [one for one in found if one["kind"] == WORKSPACES.kind and "tuning" in one]
    if len(tunings) != 1:
        raise UserError(f"There are {len(tunings)} fine-tunings in what was given.", "Give one Workspace with tuning.")
    meta = tunings[0]["metadata"]
    where = meta.get("namespace") or namespace
    asyncio.run(_apply(found, tunings[0], namespace, kubeconfig))
    more = f" -n {where}" if where != "default" else ""
    try:
        state = asyncio.run(tune.followed(meta["name"], where, kubeconfig))
    except KeyboardInterrupt:
        print(
            f"\nIt goes on. Watch it: kaito tune watch {meta['name']}{more}. End it: kaito delete {meta['name']}{more}"
        )
        raise typer.Exit(130) from None
    if state == "Succeeded":
        print(f"Serve it with inference.adapters: - source: {{workspace: {meta['name']}}} (docs/tuning.md).")
    raise typer.Exit(0 if state == "Succeeded" else 1)


async def _apply(found: list[Manifest], tuning: Manifest, namespace: str, kubeconfig: Path | None) -> None:
    console = Console()
    async with Client(connect.cluster(kubeconfig)) as client:
        await check_secret(client, found, tuning, namespace)
        for key, kind in await apply.send(client, found, namespace):
            console.print(f"{kind} {key} applied", highlight=False)


def wish_of(
    name: str | None, model: str, method: str, data: list[str] | None, output: str, *,
    push_secret: str, is_artifact: bool, config: Path | None, instance_type: str,
) -> Wish:  # fmt: skip
    """The wish; raises UserError that names the option that is missing or makes no sense."""
    for what, option in ((name, "a name"), (model, "--model"), (data, "--data"), (output, "--output")):
        if not what:
            step = "kaito tune run NAME --model MODEL --data ADDRESS --output REGISTRY/NAME:TAG --push-secret SECRET"
            raise UserError(f"{option[0].upper()}{option[1:]} is missing.", f"{step}, or kaito tune run -f FILE")
    assert name is not None and data is not None
    data = [tune.of_hub(one) or one for one in data]
    for one in data:
        wrong = datasets.problem(one) if datasets.is_dataset(one) else None
        if wrong is not None:
            raise UserError(f"--data {one} {wrong}.", "Write hf://datasets/org/name, or org/name.")
    folders = [one for one in data if not one.startswith(SCHEMES)]
    if folders and (len(data) > 1 or not Path(folders[0]).is_dir()):
        what = (
            f"--data {folders[0]} is no folder" if len(data) == 1 else "--data has several, and not all are addresses"
        )
        raise UserError(f"{what}.", "Give http(s) addresses, data sets of a hub as org/name, or one folder.")
    if not is_folder(output) and not push_secret:
        raise UserError(f"--output {output} is an image, and --push-secret is missing.", PUSH)
    try:
        text = config.read_text("utf-8") if config is not None else ""
    except (OSError, UnicodeDecodeError):
        raise UserError(f"--config {config} cannot be read.", "Name a training_config.yaml.") from None
    if is_artifact and is_folder(output):
        raise UserError(f"--artifact makes no sense with the folder {output}.", "Leave it out, or name an image.")
    return Wish(name, model, method, tuple(data), output, push_secret, is_artifact, text, instance_type)


PUSH = "kubectl create secret docker-registry NAME --docker-server=... --docker-username=... --docker-password=..."


def is_folder(output: str) -> bool:
    """Whether the result is to be a folder of this machine and no image."""
    return output.startswith((".", "/", "~"))


def check_place(wish: Wish, kubeconfig: Path | None) -> None:
    """Raises UserError where a folder is named and the pods run elsewhere."""
    if not wish.uses_folders:
        return
    here = local.running(settings.read(None).data_dir)
    if here is None or connect.cluster(kubeconfig).server != here.server:
        raise UserError("A folder of this machine is not there for the pods of another cluster.", INSTEAD)


def check_data(wish: Wish) -> None:
    """Have a folder of this machine looked at as the pod will look at it; raises UserError when it cannot be trained
    on. Where the packages for it are missing, the pod is the first to look."""
    if wish.data[0].startswith(SCHEMES):
        return
    with tempfile.TemporaryDirectory() as scratch:
        options = ["--method", wish.method]
        if wish.config:
            config = Path(scratch) / "training_config.yaml"
            config.write_text(wish.config, "utf-8")
            options += ["--config", str(config)]
        argv = [sys.executable, "-m", "kaito.runtime.tune.preview", wish.data[0], *options]
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode == 1 and tune.MISSING not in done.stderr:
        what, _, step = done.stdout.strip().rpartition("\n")
        raise UserError(what.rpartition("\n")[2], step)


async def check_secret(client: Client, found: list[Manifest], tuning: Manifest, namespace: str) -> None:
    """Raises UserError when there is no push secret of the name, as far as the user may look for it: the operator may
    read no Secret, so that a pod, on a node that costs, would be the first to find out."""
    name = (tuning["tuning"].get("output") or {}).get("imagePushSecret")
    where = tuning["metadata"].get("namespace") or namespace
    if not name or any(one["kind"] == SECRETS.kind and one["metadata"].get("name") == name for one in found):
        return
    try:
        await client.get(SECRETS, name, where)
    except NotFound:
        raise UserError(f"There is no Secret {name} in namespace {where} to push with.", PUSH) from None
    except Forbidden:
        return


def manifests(wish: Wish) -> list[Manifest]:
    """The Workspace, and the ConfigMap with its training configuration if it has one."""
    source: Manifest = {"urls": list(wish.data)}
    if not wish.data[0].startswith(SCHEMES):
        source = {"volumeSource": {"hostPath": {"path": str(_absolute(wish.data[0])), "type": "Directory"}}}
    target: Manifest = {"image": wish.output, "imagePushSecret": wish.push_secret}
    if is_folder(wish.output):
        path = str(_absolute(wish.output))
        target = {"volumeSource": {"hostPath": {"path": path, "type": "DirectoryOrCreate"}}}
    named = f"{wish.name}-training"
    workspace: Manifest = {
        "apiVersion": WORKSPACES.api_version,
        "kind": WORKSPACES.kind,
        "metadata": {
            "name": wish.name,
            **({"annotations": {OUTPUT_FORMAT_ANNOTATION: "artifact"}} if wish.is_artifact else {}),
        },
        "resource": {
            **({"instanceType": wish.instance_type} if wish.instance_type else {}),
            "labelSelector": {"matchLabels": {"apps": wish.name}},
        },
        "tuning": {
            "preset": {"name": wish.model},
            "method": wish.method,
            **({"config": named} if wish.config else {}),
            "input": source,
            "output": target,
        },
    }
    if not wish.config:
        return [workspace]
    data = {"training_config.yaml": wish.config}
    return [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": named}, "data": data}, workspace]


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()
