# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Whose kubeconfig a file is: our engine's, to be written, or that of a cluster that exists."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from kaito.cli.cluster import existing_cluster
from kaito.cli.failure import UserError

OUR_CA, THEIR_CA = "our authority", "their authority"
NOBODY = "https://127.0.0.1:1"


def kubeconfig(folder: Path, *, ca: str, name: str = "kaito", server: str = NOBODY) -> Path:
    data = base64.b64encode(ca.encode()).decode()
    file = folder / "kubeconfig"
    file.write_text(f"""
apiVersion: v1
kind: Config
current-context: {name}
clusters:
- name: {name}
  cluster: {{server: '{server}', certificate-authority-data: {data}}}
contexts:
- name: {name}
  context: {{cluster: {name}, user: me}}
users:
- name: me
  user: {{token: secret}}
""")
    return file


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "data" / "pki").mkdir(parents=True)
    (tmp_path / "data" / "pki" / "ca.crt").write_text(OUR_CA)
    return tmp_path / "data"


def test_a_new_or_empty_file_is_for_the_engine(tmp_path: Path, data_dir: Path) -> None:
    assert existing_cluster(tmp_path / "none", data_dir) is None
    (tmp_path / "empty").touch()
    assert existing_cluster(tmp_path / "empty", data_dir) is None


def test_a_file_of_an_earlier_run_is_the_engines_own(tmp_path: Path, data_dir: Path) -> None:
    assert existing_cluster(kubeconfig(tmp_path, ca=OUR_CA), data_dir) is None


def test_the_file_of_another_engine_is_a_cluster_even_while_it_is_down(tmp_path: Path, data_dir: Path) -> None:
    found = existing_cluster(kubeconfig(tmp_path, ca=THEIR_CA), data_dir)
    assert found is not None
    assert found.server == NOBODY


def test_a_left_over_of_a_removed_data_folder_is_written_over(tmp_path: Path) -> None:
    assert existing_cluster(kubeconfig(tmp_path, ca=THEIR_CA), tmp_path / "gone") is None
    named = existing_cluster(kubeconfig(tmp_path, ca=THEIR_CA, name="work"), tmp_path / "gone")
    assert named is not None


def test_a_file_that_names_no_cluster_is_left_alone(tmp_path: Path, data_dir: Path) -> None:
    file = tmp_path / "notes"
    file.write_text("buy milk")
    with pytest.raises(UserError, match=r"is not a file of kaito's own") as refused:
        existing_cluster(file, data_dir)
    assert refused.value.next_step == "Choose another --kubeconfig."
