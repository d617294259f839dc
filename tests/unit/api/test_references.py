# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from kaito.api.references import Reference, mirrored, mirrors_of, parse

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("busybox", Reference("docker.io", "library/busybox", "latest")),
        ("team/model:1", Reference("docker.io", "team/model", "1")),
        ("localhost:5000/a/b", Reference("localhost:5000", "a/b", "latest")),
        ("localhost/a", Reference("localhost", "a", "latest")),
        ("[::1]:5000/a", Reference("[::1]:5000", "a", "latest")),
        (f"ghcr.io/a/b@{DIGEST}", Reference("ghcr.io", "a/b", None, DIGEST)),
        (f"ghcr.io/a/b:2@{DIGEST}", Reference("ghcr.io", "a/b", "2", DIGEST)),
    ],
)
def test_references_are_read_as_container_engines_do(text: str, expected: Reference) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ACR_REPO_HERE.azurecr.io/ADAPTER_HERE:0.0.1", "the repository ADAPTER_HERE has capitals"),
        ("acr_repo.azurecr.io/x:1", "the registry acr_repo.azurecr.io is no host name"),
        ("ghcr.io/x:", "the tag (nothing)"),
        ("ghcr.io/a//b", "an empty part"),
        ("ghcr.io/a@sha256:12", "is no digest"),
        ("", "names no repository"),
    ],
)
def test_what_is_no_reference_says_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match="no image reference") as error:
        parse(text)
    assert why in str(error.value)


def test_a_mirror_stands_for_its_registry_with_a_folder_if_it_has_one() -> None:
    mirrors = mirrors_of(("mcr.microsoft.com=localhost:5000/mcr", "x.azurecr.io=localhost:5001"))
    assert str(mirrored(parse("mcr.microsoft.com/a:1"), mirrors)) == "localhost:5000/mcr/a:1"
    assert str(mirrored(parse("x.azurecr.io/a:1"), mirrors)) == "localhost:5001/a:1"
    assert str(mirrored(parse("ghcr.io/a:1"), mirrors)) == "ghcr.io/a:1"
    with pytest.raises(ValueError, match="FROM=TO"):
        mirrors_of(("mcr.microsoft.com",))


def test_only_this_machine_is_loopback() -> None:
    assert [parse(f"{host}/a").is_loopback for host in ("localhost:5000", "127.0.0.2", "[::1]", "127.evil.com")] == [
        True, True, True, False,
    ]  # fmt: skip
