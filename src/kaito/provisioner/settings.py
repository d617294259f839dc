# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What the provisioner is told when it starts: one frozen value, made from flags, and from the environment where a flag
is not given (`KAITO_PROVISIONER_MAX_NODES` for `--max-nodes`). Standard library only: the process is to stay small.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_type_hints

Cloud = Literal["aks", "aws", "gcp", "engine"]
CLOUDS = ("aks", "aws", "gcp", "engine")


class BadSettings(ValueError):
    """A flag or variable that cannot be used; the text says which one and what to write instead."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long each stage of a claim may take, in seconds."""

    launch_s: float = 900.0
    """For finding a machine before the claim is deleted, so that whoever made it can choose another one."""
    registration_s: float = 900.0
    """For a machine to join as a node before its claim is deleted."""
    gpus_s: float = 900.0
    """For a node to show the GPUs of its type before it is replaced."""
    detach_s: float = 360.0
    """For volumes to be detached from a drained node before its machine is taken away all the same."""
    stuck_pod_s: float = 60.0
    """After its own grace period a pod that is still there no longer holds up its node."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be chosen. The texts are the help of the flags."""

    cloud: Cloud = "engine"
    """Which cloud makes the machines: aks, aws, gcp, or engine for simulated ones of kaito's own engine."""
    kubeconfig: Path | None = None
    """The kubeconfig file of the cluster; without it the service account of the pod is used."""
    cluster: str = ""
    """The cluster's name in its cloud. Machines are marked with it; those of other clusters are not touched."""
    region: str = ""
    """aws: the region. gcp: the cluster's location, a region or a zone."""
    zones: tuple[str, ...] = ()
    """Zones that machines may be in, with commas between; empty where the cloud may choose (aks) or tells them."""
    subscription: str = ""
    """aks: the subscription's id."""
    resource_group: str = ""
    """aks: the resource group of the cluster."""
    project: str = ""
    """gcp: the project's id."""
    subnets: tuple[str, ...] = ()
    """aws: the subnets' ids; empty for those with the tag kubernetes.io/cluster/NAME."""
    security_groups: tuple[str, ...] = ()
    """aws: ids of security groups; empty for the cluster's own."""
    instance_profile: str = ""
    """aws: the instance profile of the nodes' role."""
    image: str = ""
    """aws: the id of a machine image; empty for the newest one that EKS recommends for NVIDIA GPUs."""
    endpoint: str = ""
    """Another address for the cloud's API; for private endpoints."""
    node_classes: tuple[str, ...] = ("kaito.sh/KaitoNodeClass", "karpenter.k8s.aws/EC2NodeClass")
    """Claims with these node classes (group/Kind) are ours; those of an EC2NodeClass only where the claim's label
    karpenter.sh/nodepool is kaito."""
    max_nodes: int = 0
    """Never more machines than this; 0 for no limit. The object NodeBudget/default can set a lower one."""
    max_dollars_per_hour: float = 0.0
    """Never machines that cost more than this together, at list prices; 0 for no limit. The same holds."""
    gpu_replacements: int = 2
    """How often a machine whose GPUs never show is replaced before its claim stays as it is."""
    boot_s: float = 2.0
    """engine: how long a simulated machine takes to become a node."""
    dry_run: bool = False
    """Say what would be asked of the cloud, in the log and as events, and ask nothing."""
    install_crds: bool = False
    """Install the definitions of NodeClaim and NodeBudget at start where they are missing."""
    leader_elect: bool = False
    """Of several replicas let one work."""
    namespace: str = "kaito-system"
    """Where the Lease of the leader is."""
    workers: int = 24
    """Claims that are worked on at the same time; most of them wait for the cloud."""
    settle_s: float = 45.0
    """For how long after the start calls of an earlier process may still have their effect."""
    metrics_port: int | None = None
    """Serve /metrics, /healthz and /readyz on this port; 0 takes a free one."""
    metrics_host: str = "127.0.0.1"
    """The address for that."""
    log_level: str = "info"
    """debug, info, warning or error."""
    timing: Timing = Timing()
    """How long each stage may take."""


_FLAGS = tuple(field for field in fields(Settings) if field.name != "timing")
NEEDED: Mapping[str, tuple[str, ...]] = {
    "aks": ("cluster", "subscription", "resource_group"),
    "aws": ("cluster", "region", "instance_profile"),
    "gcp": ("cluster", "region", "project"),
    "engine": (),
}


def help_texts() -> dict[str, str]:
    """What each setting means, by flag; for the command line and for the documentation."""
    found = {}
    for owner in (Settings, Timing):
        texts = _docstrings(owner)
        for field in fields(owner):
            if field.name in texts and field.name != "timing":
                found[flag_of(field.name, owner)] = texts[field.name]
    return found


def flag_of(name: str, owner: type = Settings) -> str:
    """The flag of a field."""
    plain = name.removesuffix("_s")
    return f"--{plain.replace('_', '-')}" + ("-timeout" if owner is Timing else "")


def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """The settings. Raises BadSettings; exits after --help."""
    parser = _Parser(prog="kaito-provisioner", description=__doc__, allow_abbrev=False)
    texts = help_texts()
    for owner in (Settings, Timing):
        for field in fields(owner):
            if field.name != "timing":
                flag = flag_of(field.name, owner)
                is_switch = isinstance(field.default, bool)
                kind: dict[str, Any] = {"nargs": "?", "const": "true"} if is_switch else {}
                parser.add_argument(flag, dest=f"{owner.__name__}.{field.name}", help=texts[flag], **kind)
    given = vars(parser.parse_args(list(arguments)))
    settings = _build(Settings, given, environ)
    return _checked(Settings(**settings, timing=Timing(**_build(Timing, given, environ))))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise BadSettings(f"{message}. kaito-provisioner --help lists all flags.")


def _build(owner: type, given: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    hints = get_type_hints(owner)
    found = {}
    for field in fields(owner):
        if field.name == "timing":
            continue
        flag = flag_of(field.name, owner)
        variable = f"KAITO_PROVISIONER_{flag.strip('-').replace('-', '_').upper()}"
        text = given[f"{owner.__name__}.{field.name}"]
        where = flag if text is not None else variable
        text = text if text is not None else environ.get(variable)
        if text is not None:
            found[field.name] = _value(text, str(hints[field.name]), where)
    return found


def _value(text: str, hint: str, where: str) -> Any:
    try:
        if "tuple" in hint:
            return tuple(part.strip() for part in text.split(",") if part.strip())
        if "bool" in hint:
            return {"true": True, "false": False}[text.lower()]
        if "int" in hint and "Literal" not in hint:
            return int(text)
        if "float" in hint:
            return float(text)
    except (ValueError, KeyError):
        kind = "true or false" if "bool" in hint else "a number"
        raise BadSettings(f"{where} is {text}: write {kind}.") from None
    return Path(text) if "Path" in hint else text


def _checked(settings: Settings) -> Settings:
    if settings.cloud not in CLOUDS:
        raise BadSettings(f"--cloud is {settings.cloud}: choose {', '.join(CLOUDS)}.")
    missing = [flag_of(name) for name in NEEDED[settings.cloud] if not getattr(settings, name)]
    if missing:
        raise BadSettings(f"--cloud {settings.cloud} needs {', '.join(missing)}.")
    for name in ("max_nodes", "max_dollars_per_hour", "gpu_replacements", "boot_s", "settle_s"):
        if getattr(settings, name) < 0:
            raise BadSettings(f"{flag_of(name)} is {getattr(settings, name)}: it cannot be negative.")
    if settings.workers < 1:
        raise BadSettings(f"--workers is {settings.workers}: at least 1 is needed.")
    if settings.log_level not in ("debug", "info", "warning", "error"):
        raise BadSettings(f"--log-level is {settings.log_level}: choose debug, info, warning or error.")
    if settings.kubeconfig is not None and not settings.kubeconfig.is_file():
        raise BadSettings(f"--kubeconfig names {settings.kubeconfig}, which does not exist: give a kubeconfig file.")
    return settings


def _docstrings(owner: type) -> dict[str, str]:
    """The strings below the fields of a class of this module."""
    module = ast.parse(Path(__file__).read_text())
    body = next(node.body for node in module.body if isinstance(node, ast.ClassDef) and node.name == owner.__name__)
    found = {}
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found
