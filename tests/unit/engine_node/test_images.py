# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Image names and the local commands that stand for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaito.engine.node.images import (
    ImageEntry,
    ImageFileError,
    ImageMap,
    argv_of,
    builtin_images,
    env_of,
    names_of,
    read_images,
    repository_of,
    unknown_message,
)


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        ("busybox", "busybox"),
        ("busybox:1.36", "busybox"),
        ("docker.io/library/busybox:1.36", "docker.io/library/busybox"),
        ("localhost:5000/team/app", "localhost:5000/team/app"),
        ("localhost:5000/team/app:v1@sha256:abc", "localhost:5000/team/app"),
    ],
)
def test_the_repository_is_the_name_without_tag_and_digest(image: str, repository: str) -> None:
    assert repository_of(image) == repository


def test_the_default_registry_may_be_written_or_not() -> None:
    assert names_of("docker.io/library/busybox:1") == ("docker.io/library/busybox", "busybox")
    assert names_of("docker.io/curlimages/curl") == ("docker.io/curlimages/curl", "curlimages/curl")


@pytest.mark.parametrize(
    "image",
    ["curlimages/curl", "docker.io/curlimages/curl:8.1", "busybox", "python:3.12-slim", "registry.k8s.io/pause:3.9"],
)
def test_common_images_are_built_in(image: str) -> None:
    assert builtin_images().find(image) is not None


def test_an_unknown_image_is_not_found_and_the_message_says_how_to_map_it() -> None:
    assert builtin_images().find("ghcr.io/acme/thing:1") is None
    message = unknown_message("ghcr.io/acme/thing:1")
    assert "ghcr.io/acme/thing:1" in message
    assert "--images FILE" in message
    assert '{match: "ghcr.io/acme/thing"' in message


def test_entries_of_the_user_come_first() -> None:
    mine = ImageEntry(match="busybox", command=("mine",))
    assert builtin_images().with_first([mine]).find("busybox:1") is mine


CURL = ImageEntry(match="curl", command=("curl",), command_first=True)
SHELL = ImageEntry(match="busybox", args=("/bin/sh",))


@pytest.mark.parametrize(
    ("entry", "command", "args", "is_command", "argv"),
    [
        (SHELL, [], [], False, ["/bin/sh"]),
        (SHELL, [], ["echo", "hi"], True, ["echo", "hi"]),
        (SHELL, ["sh", "-c"], ["true"], True, ["sh", "-c", "true"]),
        (CURL, [], ["curl", "-X", "POST"], True, ["curl", "-X", "POST"]),
        (CURL, [], ["-v", "http://x"], False, ["curl", "-v", "http://x"]),
        (CURL, [], ["http://x"], False, ["curl", "http://x"]),
        (CURL, [], ["sh", "-c", "true"], True, ["sh", "-c", "true"]),
        (CURL, ["sleep"], ["1"], True, ["sleep", "1"]),
    ],
)
def test_command_and_args_replace_entrypoint_and_cmd(
    entry: ImageEntry, command: list[str], args: list[str], is_command: bool, argv: list[str]
) -> None:
    assert argv_of(entry, command, args, is_command=is_command) == argv


def test_the_pods_values_are_filled_into_an_images_environment() -> None:
    entry = ImageEntry(match="x", env={"KAITO_HOST": "{pod_ip}", "ROOT": "{pod_root}/x", "BRACES": "{other}"})
    filled = env_of(entry, {"pod_ip": "127.64.0.1", "pod_root": "/r"})
    assert filled == {"KAITO_HOST": "127.64.0.1", "ROOT": "/r/x", "BRACES": "{other}"}


def test_a_file_of_entries_is_read(tmp_path: Path) -> None:
    path = tmp_path / "images.yaml"
    path.write_text('- {match: "a/*", command: [run, "1"], path: [/opt], env: {N: 1}}\n')
    (entry,) = read_images(path)
    assert entry == ImageEntry(match="a/*", command=("run", "1"), path=("/opt",), env={"N": "1"})
    assert ImageMap((entry,)).find("a/b/c:1") is entry


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not YAML"),
        ("a: 1", "must hold a list"),
        ("- 3", "entry 1: must be a map"),
        ("- {command: [x]}", "`match` must be"),
        ("- {match: a, comand: [x]}", "unknown field 'comand'"),
        ("- {match: a, command: run it}", '`command` must be a list, e.g. ["run it"]'),
        ("- {match: a, env: [x]}", "`env` must be a map"),
    ],
)
def test_a_bad_file_is_one_sentence_with_entry_and_field(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "images.yaml"
    path.write_text(text)
    with pytest.raises(ImageFileError) as error:
        read_images(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match=r"none\.yaml: cannot be read"):
        read_images(tmp_path / "none.yaml")
