# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Volumes over a pod's life: tokens are replaced in time, and a subPath keeps what the container started with."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from kaito.engine.node import rootfs
from kaito.engine.node.mounting import renewal
from kaito.engine.node.volumes import File, write_files
from tests.unit.engine_node.pods import NOW, container


@pytest.mark.parametrize(
    ("life", "renewed_after"),
    [
        (timedelta(hours=1), timedelta(minutes=48)),
        (timedelta(minutes=10), timedelta(minutes=8)),
        (timedelta(days=365), timedelta(hours=24)),
    ],
)
def test_a_token_is_replaced_before_it_expires(life: timedelta, renewed_after: timedelta) -> None:
    assert renewal(NOW, NOW + life) - NOW == renewed_after


def mounted(tmp_path: Path, sub_path: str = "") -> Path:
    """Where a container finds /etc/settings (or one entry of it) of a volume that is written anew afterwards."""
    volume = tmp_path / "volumes" / "settings"
    write_files(volume, {"file": File(b"first", 0o644), "below/file": File(b"first", 0o644)})
    inside = f"/etc/settings/{sub_path}".rstrip("/")
    mount = {"name": "settings", "mountPath": inside, **({"subPath": sub_path} if sub_path else {})}
    manifest = container(volumeMounts=[mount])
    places = rootfs.build(tmp_path / "root", manifest, rootfs.mounts(manifest, {"settings": volume}, {}))
    write_files(volume, {"file": File(b"second", 0o644), "below/file": File(b"second", 0o644)})
    return Path(places[inside])


def test_a_mounted_volume_follows_its_source(tmp_path: Path) -> None:
    assert (mounted(tmp_path) / "file").read_text() == "second"


@pytest.mark.parametrize("sub_path", ["file", "below"])
def test_a_sub_path_keeps_what_was_there_at_the_start(tmp_path: Path, sub_path: str) -> None:
    place = mounted(tmp_path, sub_path)
    assert (place if sub_path == "file" else place / "file").read_text() == "first"
