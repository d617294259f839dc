# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which local command stands for a container image.

The embedded engine has no container runtime: an image name is looked up in a list, and the entry says what to run in
place of the image's entrypoint, what to put on PATH and which environment the image would bring. Users add entries
with `kaito up --images FILE`; theirs come first. An image that nobody mapped is an `ErrImagePull` that says how to
map it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

FIELDS = {"match", "command", "args", "path", "env", "command_first"}
TEMPLATE_FIELDS = ("pod_ip", "pod_root", "pod_name", "pod_namespace", "service_proxy")


class ImageFileError(Exception):
    """The images file cannot be used; the text names the file, the entry and the field."""


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """What runs for the images whose repository matches."""

    match: str
    """A pattern for the repository without tag or digest, e.g. `ghcr.io/acme/*`."""
    command: tuple[str, ...] = ()
    """Stands for the image's entrypoint; a container's own `command` replaces it."""
    args: tuple[str, ...] = ()
    """Used when the container gives neither command nor args, as an image's CMD."""
    path: tuple[str, ...] = ()
    """Folders to put first on PATH."""
    env: Mapping[str, str] = field(default_factory=dict)
    """The image's environment; `{pod_ip}`, `{pod_root}`, `{service_proxy}` and the like are filled in."""
    command_first: bool = False
    """The entrypoint is used only when the first argument is an option, a URL, or no command, as curl's image does."""


@dataclass(frozen=True, slots=True)
class ImageMap:
    """The entries in the order in which they are tried."""

    entries: tuple[ImageEntry, ...]

    def find(self, image: str) -> ImageEntry | None:
        """The first entry whose pattern matches the image's repository."""
        names = names_of(image)
        for entry in self.entries:
            if any(fnmatchcase(name, entry.match) for name in names):
                return entry
        return None

    def with_first(self, entries: Iterable[ImageEntry]) -> ImageMap:
        """A map that tries these entries before its own."""
        return ImageMap((*entries, *self.entries))


def repository_of(image: str) -> str:
    """The image's name without tag and digest."""
    name = image.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]


def names_of(image: str) -> tuple[str, ...]:
    """The repository in the spellings that mean the same: with and without the default registry and its `library/`."""
    repository = repository_of(image)
    short = repository.removeprefix("docker.io/").removeprefix("index.docker.io/").removeprefix("library/")
    return tuple(dict.fromkeys((repository, short)))


def unknown_message(image: str) -> str:
    """What a user should know when no entry matches."""
    line = f'{{match: "{repository_of(image)}", command: ["/path/to/program"]}}'
    return (
        f"image {image!r} is not known here: the embedded engine runs images as local commands. "
        f"Map it with `kaito up --images FILE`, where FILE holds a line like `- {line}`"
    )


def missing_message(image: str, program: str) -> str:
    """What a user should know when the mapped program is not installed."""
    return (
        f"image {image!r} is mapped to the local command {program!r}, which is not installed on this machine: "
        "install it, or map the image to another command with `kaito up --images FILE`"
    )


def argv_of(entry: ImageEntry, command: list[str], args: list[str], *, is_command: bool) -> list[str]:
    """What to run, by the rules of Kubernetes: `command` replaces the entrypoint, `args` replaces the image's CMD.

    `is_command`: whether the first argument names a program on the container's PATH.
    """
    if command:
        return [*command, *args]
    arguments = args or list(entry.args)
    if entry.command_first and is_command and arguments and not arguments[0].startswith("-"):
        return arguments
    return [*entry.command, *arguments]


def env_of(entry: ImageEntry, values: Mapping[str, str]) -> dict[str, str]:
    """The image's environment with the pod's values filled in."""
    filled = {}
    for name, template in entry.env.items():
        text = template
        for key in TEMPLATE_FIELDS:
            text = text.replace("{" + key + "}", values.get(key, ""))
        filled[name] = text
    return filled


def builtin_images() -> ImageMap:
    """Images that every machine can stand in for."""
    shell = ("/bin/sh",)
    pause = ("/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 86400 & wait $!; done")
    python = str(Path(sys.executable).parent)
    proxy = {"http_proxy": "{service_proxy}", "no_proxy": "localhost,127.0.0.1"}
    shells = [ImageEntry(match=name, args=shell) for name in ("busybox", "alpine", "debian", "ubuntu")]
    curls = [
        ImageEntry(match=name, command=("curl",), env=proxy, command_first=True)
        for name in ("curlimages/curl", "*/curl")
    ]
    return ImageMap(
        (
            *curls,
            *shells,
            ImageEntry(match="bash", command=("bash",), command_first=True),
            ImageEntry(match="python", args=("python3",), path=(python,)),
            ImageEntry(match="pause", command=pause),
            ImageEntry(match="*/pause", command=pause),
        )
    )


def read_images(path: Path) -> tuple[ImageEntry, ...]:
    """The entries of a YAML or JSON file. Raises ImageFileError."""
    try:
        value = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ImageFileError(f"{path}: is not YAML: {str(error).splitlines()[0]}") from error
    entries = value.get("images") if isinstance(value, dict) else value
    if not isinstance(entries, list):
        raise ImageFileError(f"{path}: must hold a list of entries with `match` and `command`")
    return tuple(_entry(f"{path}: entry {number}", item) for number, item in enumerate(entries, start=1))


def _entry(where: str, item: Any) -> ImageEntry:
    if not isinstance(item, dict):
        raise ImageFileError(f"{where}: must be a map with `match` and `command`")
    unknown = sorted(set(item) - FIELDS)
    if unknown:
        raise ImageFileError(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(sorted(FIELDS))}")
    match = item.get("match")
    if not isinstance(match, str) or not match:
        raise ImageFileError(f"{where}: `match` must be an image name or pattern")
    env = item.get("env") or {}
    if not isinstance(env, dict):
        raise ImageFileError(f"{where}: `env` must be a map of names to texts")
    return ImageEntry(
        match=match,
        command=_texts(where, item, "command"),
        args=_texts(where, item, "args"),
        path=_texts(where, item, "path"),
        env={str(name): str(text) for name, text in env.items()},
        command_first=bool(item.get("command_first", False)),
    )


def _texts(where: str, item: dict[str, Any], name: str) -> tuple[str, ...]:
    value = item.get(name)
    if value is None:
        return ()
    if isinstance(value, str):
        raise ImageFileError(f'{where}: `{name}` must be a list, e.g. ["{value}"]')
    if not isinstance(value, list) or not all(isinstance(text, str | int | float) for text in value):
        raise ImageFileError(f"{where}: `{name}` must be a list of texts")
    return tuple(str(text) for text in value)
