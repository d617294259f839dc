# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever a user can get wrong ends in a sentence and a next step."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kaito.cli.apply import manifests
from kaito.cli.explain import explain
from kaito.cli.failure import UserError
from kaito.kube.config import ConfigError, load_kubeconfig
from kaito.kube.errors import error_from_response


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 429, 500, 503])
def test_every_refusal_of_a_server_has_a_next_step(status: int) -> None:
    body = b'{"kind":"Status","message":"no","details":{"name":"demo"}}'
    shown = explain(error_from_response(status, body))
    assert str(shown) == "no."
    assert shown.next_step


def test_a_path_that_cannot_be_used_is_named_first() -> None:
    shown = explain(PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/root/x"))
    assert str(shown) == "/root/x: Permission denied."
    assert shown.next_step


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [1,", "not YAML"),
        (b"hello", "not a kubeconfig"),
        (b"", "not a kubeconfig"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"kind: Config\ncurrent-context: a\n", "no 'a' among its contexts"),
    ],
)
def test_a_wrong_kubeconfig_is_explained(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "config"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_kubeconfig(file)
    shown = explain(caught.value)
    assert said in str(shown)
    assert shown.next_step


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [1,\n", "no valid YAML in line 2"),
        (b"hello\n", "without apiVersion"),
        (b"apiVersion: v1\nmetadata: {name: x}\n", "without kind"),
        (b"apiVersion: v1\nkind: ConfigMap\n", "without metadata.name"),
        (b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: 5}\n", "without metadata.name"),
        (b"apiVersion: v1\nkind: List\nitems: 7\n", "items are no list"),
        (b"apiVersion: v1\nkind: List\nitems: [7]\n", "without apiVersion"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (b"", "no object"),
    ],
)
def test_a_wrong_manifest_is_explained(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "workspace.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        manifests(str(file))
    assert caught.value.next_step


def test_a_cluster_without_kaito_is_told_from_a_missing_workspace() -> None:
    body = b'{"kind":"Status","message":"the server could not find the requested resource","details":{}}'
    assert "does not know Workspaces" in str(explain(error_from_response(404, body)))
