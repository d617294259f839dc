# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""From a container's manifest to the process to start: image, environment, folders, command line.

Everything that can be missing becomes an `Unready` with the reason that Kubernetes uses for it, so the user sees it
in `kubectl get pods` and reads in `kubectl describe` what to do.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kaito.engine.node import rootfs
from kaito.engine.node.environment import ConfigError, Placement, Sources, declared, expand
from kaito.engine.node.images import (
    ImageEntry,
    ImageMap,
    argv_of,
    env_of,
    missing_message,
    repository_of,
    unknown_message,
)
from kaito.engine.node.process import Launch
from kaito.kube.manifest import Manifest

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Unready(Exception):
    """The container cannot be started now; `reason` is the one of its waiting state."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Host:
    """What the machine gives to every container."""

    images: ImageMap
    env: Mapping[str, str]
    """The part of the engine's own environment that containers inherit."""
    service_proxy: str = ""
    """URL of the HTTP proxy that knows Services; empty when there is none."""


@dataclass(frozen=True, slots=True)
class PodPlace:
    """Where one pod lives on the machine."""

    placement: Placement
    volumes: Mapping[str, Path]
    root: Path
    gpu_env: Mapping[str, str]


def launch(pod: Manifest, container: Manifest, host: Host, place: PodPlace, sources: Sources) -> tuple[Launch, str]:
    """How to start the container, and its image id. Makes the container's root folder anew. Raises Unready."""
    image = container.get("image", "")
    entry = host.images.find(image)
    if entry is None:
        raise Unready("ErrImagePull", unknown_message(image))
    try:
        own = declared(pod, container, sources, place.placement)
        places = rootfs.build(place.root, container, rootfs.mounts(container, place.volumes, own))
    except (ConfigError, OSError) as error:
        raise Unready("CreateContainerConfigError", str(error)) from error
    rewriter = rootfs.Rewriter(places)
    env = _env(pod, entry, host, place, {name: rewriter.text(value) for name, value in own.items()})
    argv = [rewriter.text(word) for word in _argv(container, entry, own, env["PATH"])]
    _check_program(image, entry, container, argv, env["PATH"])
    made = Launch(
        argv=tuple(argv),
        env=env,
        cwd=_cwd(container, place.root, rewriter),
        tty=bool(container.get("tty")),
        stdin=bool(container.get("stdin")),
        places={inside: str(real) for inside, real in places.items()},
    )
    return made, f"local://{repository_of(image)}"


def _env(pod: Manifest, entry: ImageEntry, host: Host, place: PodPlace, own: Mapping[str, str]) -> dict[str, str]:
    meta = pod["metadata"]
    values = {
        "pod_ip": place.placement.address,
        "pod_root": str(place.root),
        "pod_name": meta["name"],
        "pod_namespace": meta.get("namespace", ""),
        "service_proxy": host.service_proxy,
    }
    env = {**host.env, **place.gpu_env, "HOSTNAME": pod["spec"].get("hostname") or meta["name"]}
    env |= {name: value for name, value in env_of(entry, values).items() if value}
    env |= own
    path = own.get("PATH") or host.env.get("PATH") or DEFAULT_PATH
    env["PATH"] = ":".join([*entry.path, path])
    return env


def _argv(container: Manifest, entry: ImageEntry, own: Mapping[str, str], path: str) -> list[str]:
    command = [expand(word, own) for word in container.get("command") or []]
    args = [expand(word, own) for word in container.get("args") or []]
    is_command = bool(args) and shutil.which(args[0], path=path) is not None
    argv = argv_of(entry, command, args, is_command=is_command)
    if not argv:
        image = container.get("image", "")
        raise Unready("CreateContainerConfigError", f"no command specified: image {image!r} has none of its own here")
    return argv


def _check_program(image: str, entry: ImageEntry, container: Manifest, argv: list[str], path: str) -> None:
    """A program that the mapping names and the machine lacks is the image's trouble, not the container's."""
    named_by_image = not container.get("command") and entry.command[:1] == tuple(argv[:1])
    if named_by_image and shutil.which(argv[0], path=path) is None:
        raise Unready("ErrImagePull", missing_message(image, argv[0]))


def _cwd(container: Manifest, root: Path, rewriter: rootfs.Rewriter) -> str:
    inside = container.get("workingDir")
    if not inside:
        return str(root)
    mounted = Path(rewriter.text(inside))
    for place in (mounted, root / inside.lstrip("/")):
        if place.is_dir():
            return str(place)
    made = root / inside.lstrip("/")
    made.mkdir(parents=True, exist_ok=True)
    return str(made)
