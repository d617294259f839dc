# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A folder that looks like a container's file system, and the rewriting of container paths to where they really are.

A process without a mount namespace cannot have `/etc/kaito` of its own. So every mount is a link below a root folder,
and paths under a mount that occur in the command, the arguments or the environment are rewritten before the process
starts. Programs that read such paths from a file of their own can put the root (`{pod_root}` in an image's
environment) before them.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from kaito.engine.node.environment import ConfigError, expand
from kaito.engine.node.volumes import safe_path
from kaito.kube.manifest import Manifest

VERSION = re.compile(r"\.\.[0-9a-f]{16}")
"""The folder that `volumes.write_files` keeps one state of a volume in."""
TERMINATION_LOG = "/dev/termination-log"
# What may stand before a path (else it is the tail of a longer path, a word or a URL) and after it.
BEFORE = r"(?<![\w./@%+-])"
AFTER = r"(?=$|[/\s\"'`:;,=&|<>()\[\]{}])"


class Rewriter:
    """Turns container paths within texts into host paths; the longest mount wins."""

    def __init__(self, places: Mapping[str, Path | str]) -> None:
        self._places = {self._clean(inside): str(real) for inside, real in places.items()}
        ordered = sorted(self._places, key=len, reverse=True)
        known = "|".join(re.escape(inside) for inside in ordered)
        self._pattern = re.compile(f"{BEFORE}(?:file://)?({known}){AFTER}") if ordered else None

    @staticmethod
    def _clean(inside: str) -> str:
        return str(PurePosixPath("/", inside))

    def text(self, text: str) -> str:
        """The text with every container path in it replaced."""
        if self._pattern is None or "/" not in text:
            return text
        return self._pattern.sub(
            lambda match: match.group(0).replace(match.group(1), self._places[match.group(1)]), text
        )


def mounts(container: Manifest, volumes: Mapping[str, Path], env: Mapping[str, str]) -> dict[str, Path]:
    """Where each of the container's mounts really is. Raises ConfigError for a bad or escaping subPath."""
    places = {}
    for mount in container.get("volumeMounts") or []:
        volume = volumes.get(mount["name"])
        if volume is None:
            raise ConfigError(f'volumeMounts: volume "{mount["name"]}" is not in spec.volumes')
        inside = str(PurePosixPath("/", mount["mountPath"]))
        if inside == "/" or ".." in PurePosixPath(inside).parts:
            raise ConfigError(f"volumeMounts: mountPath {mount['mountPath']!r} must be a folder below / without '..'")
        below = expand(mount["subPathExpr"], env) if mount.get("subPathExpr") else mount.get("subPath", "")
        places[inside] = _below(volume, below) if below else volume
    return places


def _below(volume: Path, below: str) -> Path:
    place = volume / safe_path(below)
    if not place.exists():
        with contextlib.suppress(OSError):
            place.mkdir(parents=True)
    if not place.resolve().is_relative_to(volume.resolve()):
        raise ConfigError(f"subPath {below!r} leads out of its volume")
    return place


def termination_path(container: Manifest) -> str:
    """Where the container leaves its last words, as it sees the path."""
    return container.get("terminationMessagePath") or TERMINATION_LOG


def build(root: Path, container: Manifest, places: Mapping[str, Path]) -> dict[str, Path]:
    """Make the folder anew; returns the places to rewrite: the mounts and the file for the last words."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    own: dict[str, Path] = {}
    for inside in sorted(places, key=len):
        link = root / inside.lstrip("/")
        if _is_inside_a_mount(inside, places):
            continue  # would write into a volume; the rewriting knows the place
        link.parent.mkdir(parents=True, exist_ok=True)
        if _is_versioned(places[inside]):
            own[inside] = _copied(places[inside], link)
            continue
        with contextlib.suppress(FileExistsError):
            link.symlink_to(places[inside])
    if not (root / "tmp").exists():
        (root / "tmp").mkdir()
    last_words = termination_path(container)
    rewritten = {**places, **own}
    if not _is_inside_a_mount(last_words, places):
        file = root / last_words.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o666)
        rewritten[last_words] = file
    return rewritten


def _is_versioned(place: Path) -> bool:
    """Whether the place is one file or folder of a volume from the API: a subPath of it is never updated."""
    return any(VERSION.fullmatch(part) for part in place.resolve().parts)


def _copied(place: Path, target: Path) -> Path:
    if place.is_dir():
        shutil.copytree(place, target, dirs_exist_ok=True)
    else:
        shutil.copy2(place, target)
    return target


def _is_inside_a_mount(path: str, places: Mapping[str, Path]) -> bool:
    return any(path != inside and PurePosixPath(path).is_relative_to(inside) for inside in places)
