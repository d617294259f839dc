# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Manifests are read from files, and what is wrong in one is said with its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaito.cli.apply import manifests
from kaito.cli.failure import UserError

CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\n"


def test_a_folder_is_read_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(CONFIG_MAP % "second")
    (tmp_path / "a.yml").write_text(CONFIG_MAP % "first" + "---\n" + CONFIG_MAP % "between" + "---\n")
    (tmp_path / "note.txt").write_text("not a manifest")
    assert [m["metadata"]["name"] for m in manifests(str(tmp_path))] == ["first", "between", "second"]


def test_a_list_is_taken_apart(tmp_path: Path) -> None:
    file = tmp_path / "list.yaml"
    file.write_text("apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: x}}\n")
    assert [m["kind"] for m in manifests(str(file))] == ["Pod"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no object"),
        ("a: [1", "no valid YAML in line"),
        ("just words", "without apiVersion"),
        ("apiVersion: v1\nmetadata: {name: x}", "without kind"),
        ("apiVersion: v1\nkind: Pod", "without metadata.name"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        manifests(str(file))
    assert str(file) in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match="does not exist"):
        manifests("nowhere.yaml")
