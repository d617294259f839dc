# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Volumes as folders, and container paths as host paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kaito.engine.node import rootfs
from kaito.engine.node.environment import ConfigError, Placement
from kaito.engine.node.volumes import VolumeError, lay_out, references
from tests.unit.engine_node.pods import FakeSources, config_map, container, pod, secret

PLACE = Placement("127.64.0.9", "127.0.0.1", "here")


def sources() -> FakeSources:
    return FakeSources(
        config_maps={"settings": config_map("settings", **{"a.txt": "A", "b.txt": "B"})},
        secrets={"keys": secret("keys", token="c2VzYW1l")},
    )


def laid(tmp_path: Path, volume: dict[str, Any], known: FakeSources | None = None) -> Path:
    return lay_out(pod(), {"name": "v", **volume}, tmp_path, known or sources(), PLACE)


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and not str(path.relative_to(folder)).startswith("..")
    }


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        ({"configMap": {"name": "settings"}}, {"a.txt": "A", "b.txt": "B"}),
        ({"configMap": {"name": "settings", "items": [{"key": "a.txt", "path": "x"}]}}, {"x": "A"}),
        ({"configMap": {"name": "none", "optional": True}}, {}),
        ({"secret": {"secretName": "keys"}}, {"token": "sesame"}),
        ({"emptyDir": {"medium": "Memory"}}, {}),
        ({"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}}, {"l": 'app="web"'}),
        (
            {"projected": {"sources": [{"configMap": {"name": "settings"}}, {"secret": {"name": "keys"}}]}},
            {"a.txt": "A", "b.txt": "B", "token": "sesame"},
        ),
    ],
)
def test_a_volume_holds_what_it_names(tmp_path: Path, volume: dict[str, Any], expected: dict[str, str]) -> None:
    assert files(laid(tmp_path, volume)) == expected


def test_files_have_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    items = [{"key": "a.txt", "path": "x", "mode": 0o400}, {"key": "b.txt", "path": "y"}]
    folder = laid(tmp_path, {"configMap": {"name": "settings", "defaultMode": 0o600, "items": items}})
    assert [(folder / name).stat().st_mode & 0o777 for name in "xy"] == [0o400, 0o600]


def test_a_changed_config_map_reaches_the_folder_and_old_files_go(tmp_path: Path) -> None:
    known = sources()
    folder = laid(tmp_path, {"configMap": {"name": "settings"}}, known)
    known.config_maps["settings"] = config_map("settings", **{"a.txt": "new"})
    laid(tmp_path, {"configMap": {"name": "settings"}}, known)
    assert files(folder) == {"a.txt": "new"}
    assert len(list(folder.glob("..*"))) == 2


def test_laying_out_the_same_again_writes_nothing(tmp_path: Path) -> None:
    folder = laid(tmp_path, {"configMap": {"name": "settings"}})
    before = (folder / "a.txt").stat().st_ino
    laid(tmp_path, {"configMap": {"name": "settings"}})
    assert (folder / "a.txt").stat().st_ino == before


@pytest.mark.parametrize(
    ("volume", "said"),
    [
        ({"configMap": {"name": "none"}}, 'MountVolume.SetUp failed for volume "v" : configmap "none" not found'),
        ({"configMap": {"name": "settings", "items": [{"key": "c", "path": "c"}]}}, "non-existent configmap key: c"),
        ({"configMap": {"name": "settings", "items": [{"key": "a.txt", "path": "../c"}]}}, "must not contain '..'"),
        ({"configMap": {"name": "settings", "items": [{"key": "a.txt", "path": "/c"}]}}, "must be relative"),
        ({"configMap": {"name": "evil"}}, "key '../x' is not a file name"),
        ({"persistentVolumeClaim": {"claimName": "none"}}, 'persistentvolumeclaim "none" not found'),
        ({"hostPath": {"path": "/nowhere/else", "type": "Directory"}}, "hostPath type check failed"),
        ({"hostPath": {"path": "a/../b"}}, "must be absolute"),
        ({"nfs": {"server": "x"}}, "nfs volumes are not supported"),
    ],
)
def test_what_cannot_be_set_up_says_why(tmp_path: Path, volume: dict[str, Any], said: str) -> None:
    known = sources()
    known.config_maps["evil"] = config_map("evil", **{"../x": "1"})
    with pytest.raises(VolumeError) as error:
        laid(tmp_path, volume, known)
    assert said in str(error.value)


def test_a_claim_leads_to_the_folder_of_its_volume(tmp_path: Path) -> None:
    known = sources()
    known.claims["data"] = {"spec": {"volumeName": "pv"}}
    known.volumes["pv"] = {"spec": {"hostPath": {"path": str(tmp_path / "disk")}}}
    where = laid(tmp_path, {"persistentVolumeClaim": {"claimName": "data"}}, known)
    assert where == tmp_path / "disk"
    assert where.is_dir()


def test_the_objects_that_a_pod_refers_to_are_known() -> None:
    env = [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "a"}}}]
    volumes = [{"name": "v", "projected": {"sources": [{"configMap": {"name": "settings"}}]}}]
    assert references(pod(container(env=env), volumes=volumes)) == {("Secret", "keys"), ("ConfigMap", "settings")}


@pytest.mark.parametrize(
    ("text", "rewritten"),
    [
        ("/etc/kaito/serve.json", "/real/config/serve.json"),
        ("--config=/etc/kaito", "--config=/real/config"),
        ("/etc/kaito2/x", "/etc/kaito2/x"),
        ("http://host/etc/kaito/x", "http://host/etc/kaito/x"),
        ("file:///etc/kaito/x", "file:///real/config/x"),
        ("cat '/etc/kaito/a' > /data/b;", "cat '/real/config/a' > /real/data/b;"),
        ("PATH=/data/bin:/data/sbin", "PATH=/real/data/bin:/real/data/sbin"),
        ("/data/deep/x", "/real/deep/x"),
        ("./data/x ../data", "./data/x ../data"),
    ],
)
def test_container_paths_are_rewritten_where_they_are_paths(text: str, rewritten: str) -> None:
    places = {"/etc/kaito": Path("/real/config"), "/data/": Path("/real/data"), "/data/deep": Path("/real/deep")}
    assert rootfs.Rewriter(places).text(text) == rewritten


def test_the_root_folder_shows_mounts_where_the_container_expects_them(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "file").write_text("here")
    made = container(volumeMounts=[{"name": "v", "mountPath": "/etc/app"}])
    root = tmp_path / "root"
    places = rootfs.build(root, made, rootfs.mounts(made, {"v": volume}, {}))
    assert (root / "etc/app/file").read_text() == "here"
    assert (root / "dev/termination-log").is_file()
    assert places["/dev/termination-log"] == root / "dev/termination-log"
    rootfs.build(root, made, rootfs.mounts(made, {"v": volume}, {}))
    assert (volume / "file").read_text() == "here"


@pytest.mark.parametrize(
    ("mount", "said"),
    [
        ({"name": "none", "mountPath": "/a"}, 'volume "none" is not in spec.volumes'),
        ({"name": "v", "mountPath": "/"}, "must be a folder below /"),
        ({"name": "v", "mountPath": "/a/../b"}, "must be a folder below /"),
        ({"name": "v", "mountPath": "/a", "subPath": "../x"}, "must not contain '..'"),
        ({"name": "v", "mountPath": "/a", "subPath": "/x"}, "must be relative"),
        ({"name": "v", "mountPath": "/a", "subPath": "out/x"}, "leads out of its volume"),
    ],
)
def test_mounts_cannot_leave_their_volume(tmp_path: Path, mount: dict[str, str], said: str) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "out").symlink_to(tmp_path)
    (tmp_path / "x").mkdir()
    with pytest.raises(ConfigError) as error:
        rootfs.mounts(container(volumeMounts=[mount]), {"v": volume}, {})
    assert said in str(error.value)


def test_a_sub_path_may_use_the_containers_variables(tmp_path: Path) -> None:
    mount = {"name": "v", "mountPath": "/a", "subPathExpr": "$(NAME)/logs"}
    places = rootfs.mounts(container(volumeMounts=[mount]), {"v": tmp_path}, {"NAME": "web-0"})
    assert places == {"/a": tmp_path / "web-0/logs"}
