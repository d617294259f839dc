# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the operator is told when it starts: one frozen value, handed down. `flags.py` makes it from flags,
environment and a file.

Knows neither the cluster nor the process it runs in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from kaito.api.contracts import Engine
from kaito.api.release import image

ProvisionerName = Literal["local", "byo", "nodeclaim", "karpenter"]
CloudName = Literal["azure", "aws", "arc"]
ImageFamilyName = Literal["ubuntu", "azurelinux"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
Port = Annotated[int, Field(ge=0, le=65535)]
ORDERING = ("nodeclaim",)
"""The provisioners that need to know the cloud."""
DEFAULT_RUNTIME_IMAGE = image("runtime")


DEFAULT_HUB = "https://huggingface.co"


class BadSettings(ValueError):
    """A flag, variable or file that cannot be used; the text says which one and what to write instead."""


class Settings(BaseModel):
    """Everything that can be chosen about an operator. The texts under the fields are the help of its flags."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kubeconfig: Path | None = None
    """The kubeconfig file of the cluster; without it the operator uses the service account of its own pod."""
    provisioner: ProvisionerName = "byo"
    """Where nodes come from: `local` takes this one machine, `byo` the nodes that carry the Workspace's labels,
    `nodeclaim` orders them one by one from Karpenter or the gpu-provisioner, `karpenter` by a NodePool for each
    Workspace."""
    node_class: Annotated[str, Field(pattern=r"^[^/]+/[^/]+/[^/]+$")] = "karpenter.azure.com/AKSNodeClass/default"
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
    """Never download weights, and ask no hub what a model is."""
    hub_endpoint: str = DEFAULT_HUB
    """The hub that pods download from, and that is asked about models which the catalogue does not hold; empty asks
    none."""
    machines: Path | None = None
    """A YAML file with machine types and GPUs of one's own, such as a mounted ConfigMap; docs/sizing.md shows one."""
    facts_cache: str = ""
    """A folder that keeps what a hub said of a model; without it, it is asked again after a restart."""
    private_urls: bool | None = None
    """Let tunings download data from loopback and private addresses. On where the provisioner is `local`."""
    install_crds: bool = False
    """Install our CustomResourceDefinitions at start."""
    webhook_port: Port | None = None
    """The port of the admission webhook; 0 takes a free one. Without it there is no webhook."""
    webhook_url_host: str = ""
    """The host by which the API server reaches the webhook directly; without it it is called by its Service."""
    webhook_service: str = "kaito-webhook"
    """The Service in front of the webhook, used where no host is given."""
    webhook_certificate_days: Annotated[float, Field(gt=0)] = 90
    """How long a certificate of the webhook lives; it is renewed when a third of that is left."""
    namespace: str = "kaito-system"
    """The namespace that the operator itself runs in."""
    metrics_port: Port | None = None
    """The port of /metrics; 0 takes a free one. Without it there are no metrics."""
    metrics_host: str = "127.0.0.1"
    """The address that /metrics is served on."""
    health_port: Port | None = None
    """The port of /healthz and /readyz; 0 takes a free one. Without it they are served beside /metrics."""
    health_host: str = "127.0.0.1"
    """The address that /healthz and /readyz are served on."""
    leader_elect: bool | None = None
    """Work only while holding a Lease, so that several replicas may run. On, but where the provisioner is `local`."""
    lease_seconds: Annotated[int, Field(ge=3)] = 8
    """How long a leader that has died holds the others up. It renews four times as often."""
    shutdown_delay_seconds: Annotated[float, Field(ge=0)] = 0
    """How long the webhook goes on answering after the operator was told to end: a cluster's nodes may send it requests
    until they have heard of it."""
    feature_gates: dict[str, bool] = {}
    """KAITO's feature gates as name=true,name=false."""
    workers: Annotated[int, Field(ge=1)] = 8
    """How many Workspaces are worked on at once."""
    log_level: LogLevel = "info"
    """debug, info, warning or error."""
    log_format: LogFormat = "text"
    """`text` for people, `json` for one object a line."""

    @property
    def allows_private_urls(self) -> bool:
        """Whether data may come from this machine or its network."""
        return self.provisioner == "local" if self.private_urls is None else self.private_urls

    @property
    def elects(self) -> bool:
        """Whether replicas elect a leader."""
        return self.provisioner != "local" if self.leader_elect is None else self.leader_elect
