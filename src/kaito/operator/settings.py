# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the operator is told when it starts: one frozen value, made from flags and environment, handed down.

Knows neither the cluster nor the process it runs in: `__main__` gives it the arguments and the environment.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from kaito.api.contracts import Engine

ProvisionerName = Literal["local", "byo", "nodeclaim", "karpenter"]
CloudName = Literal["azure", "aws", "arc"]
ImageFamilyName = Literal["ubuntu", "azurelinux"]
CLOUDS = ("azure", "aws", "arc")
ORDERING = ("nodeclaim",)
"""The provisioners that need to know the cloud."""
KAITO_PROVISIONERS = {"azure-gpu-provisioner": "nodeclaim"}
"""What KAITO v0.12 calls a provisioner, and what it is called here."""
DEFAULT_RUNTIME_IMAGE = "ghcr.io/kaito-project/kaito-runtime:0.1.0"


class BadSettings(ValueError):
    """A flag or variable that cannot be used; the text says which one and what to write instead."""


class Settings(BaseModel):
    """Everything that can be chosen about an operator. The texts under the fields are the help of its flags."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kubeconfig: Path | None = None
    """The kubeconfig file of the cluster; without it the operator uses the service account of its own pod."""
    provisioner: ProvisionerName = "byo"
    """Where nodes come from: `local` takes this one machine, `byo` the nodes that carry the Workspace's labels,
    `nodeclaim` orders them one by one from Karpenter or the gpu-provisioner, `karpenter` by a NodePool for each
    Workspace."""
    node_class: str = "karpenter.azure.com/AKSNodeClass/default"
    """The node class of the NodePools, as group/Kind/name; the annotation kaito.sh/node-class-name names another."""
    cloud: CloudName = "azure"
    """The cloud that nodes are ordered in."""
    node_image_family: ImageFamilyName = "ubuntu"
    """The operating system of ordered nodes, where the Workspace has no annotation kaito.sh/node-image-family."""
    default_runtime: Engine = "vllm"
    """The engine of Workspaces without the annotation kaito.sh/runtime."""
    runtime_image: str = DEFAULT_RUNTIME_IMAGE
    """The image that holds `kaito-runtime`."""
    local_weights: tuple[str, ...] = ()
    """Folders of the node that hold weights laid out by model id; looked in before anything is downloaded."""
    weights_cache: str = ""
    """A folder of the node that keeps downloaded weights when a pod goes; without it they go with the pod."""
    offline: bool = False
    """Never download weights."""
    install_crds: bool = False
    """Install our CustomResourceDefinitions at start."""
    webhook_port: int | None = None
    """The port of the admission webhook; 0 takes a free one. Without it there is no webhook."""
    webhook_url_host: str = ""
    """The host by which the API server reaches the webhook directly; without it it is called by its Service."""
    webhook_service: str = "kaito-webhook"
    """The Service in front of the webhook, used where no host is given."""
    namespace: str = "kaito-system"
    """The namespace that the operator itself runs in."""
    metrics_port: int | None = None
    """The port of /metrics, /healthz and /readyz; 0 takes a free one. Without it they are not served."""
    metrics_host: str = "127.0.0.1"
    """The address that these are served on."""
    leader_elect: bool = False
    """Run only while holding a Lease, so that several replicas may be started."""
    workers: int = 4
    """How many Workspaces are worked on at once."""
    log_level: str = "info"
    """debug, info, warning or error."""


def read(arguments: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """The settings that command line and environment ask for.

    Raises BadSettings for values that cannot be used. Exits as argparse does on --help and on unknown flags.
    """
    given = _parser(environ).parse_args(arguments)
    folders = tuple(folder for text in given.local_weights for folder in text.split(",") if folder)
    for folder in folders:
        if not Path(folder).is_dir():
            raise BadSettings(f"--local-weights names {folder}, which is not a folder: create it or leave it out.")
    if given.kubeconfig is not None and not given.kubeconfig.is_file():
        raise BadSettings(f"--kubeconfig names {given.kubeconfig}, which does not exist: give a kubeconfig file.")
    named = environ.get("CLOUD_PROVIDER", "")
    if given.provisioner in ORDERING and given.cloud is None and named.lower() not in ("", *CLOUDS):
        raise BadSettings(f"CLOUD_PROVIDER is {named}, where nodes cannot be ordered: set it to {', '.join(CLOUDS)}.")
    if given.cloud is None:
        given.cloud = named.lower() if named.lower() in CLOUDS else Settings().cloud
    changed = {
        "local_weights": tuple(str(Path(folder).absolute()) for folder in folders),
        "weights_cache": str(Path(given.weights_cache).absolute()) if given.weights_cache else "",
    }
    return Settings(**{**vars(given), **changed})


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port: give a number from 0 to 65535")
    return port


def _workers(text: str) -> int:
    workers = int(text)
    if workers < 1:
        raise argparse.ArgumentTypeError("at least 1 worker is needed")
    return workers


def _node_class(text: str) -> str:
    parts = text.split("/")
    if len(parts) != 3 or not all(parts):
        raise argparse.ArgumentTypeError(f"{text} is no node class: write it as group/Kind/name")
    return text


def _provisioner(text: str) -> str:
    return KAITO_PROVISIONERS.get(text, text)


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    base = Settings()
    parser = argparse.ArgumentParser(prog="kaito-operator", description="Reconciles kaito Workspaces.")

    def add(flag: str, **options: Any) -> None:
        name = flag.removeprefix("--").replace("-", "_")
        text = Settings.model_fields[name].description
        if options.get("action") is None:
            options.setdefault("default", getattr(base, name))
        parser.add_argument(flag, help=text, **options)

    add("--kubeconfig", type=Path, metavar="FILE")
    add("--provisioner", type=_provisioner, choices=get_args(ProvisionerName))
    add("--node-class", type=_node_class, metavar="GROUP/KIND/NAME")
    add("--cloud", default=None, choices=CLOUDS)
    add("--node-image-family", choices=("ubuntu", "azurelinux"))
    add("--default-runtime", choices=("vllm", "transformers"))
    add("--runtime-image", default=environ.get("KAITO_RUNTIME_IMAGE", base.runtime_image), metavar="IMAGE")
    add("--local-weights", action="append", default=[], metavar="DIR[,DIR]")
    add("--weights-cache", metavar="DIR")
    add("--offline", action="store_true")
    add("--install-crds", action="store_true")
    add("--webhook-port", type=_port, metavar="PORT")
    add("--webhook-url-host", metavar="HOST")
    add("--webhook-service", metavar="NAME")
    add("--namespace", default=environ.get("POD_NAMESPACE", base.namespace))
    add("--metrics-port", type=_port, metavar="PORT")
    add("--metrics-host", metavar="HOST")
    add("--leader-elect", action="store_true")
    add("--workers", type=_workers, metavar="N")
    add("--log-level", choices=("debug", "info", "warning", "error"))
    return parser
