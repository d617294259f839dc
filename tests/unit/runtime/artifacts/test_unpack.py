# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
import zstandard

from kaito.runtime.artifacts.layers import merge
from kaito.runtime.artifacts.media import Compression
from kaito.runtime.artifacts.unpack import Limits, Unpacked, Unsafe, unpack
from kaito.runtime.failure import Failed


def entry(
    name: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, link, len(content), mode
    return info, content


def archive(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for info, content in entries:
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def unpacked(
    data: bytes, place: Path, *, prefix: str = "/data", compression: Compression = "", limits: Limits | None = None
) -> Unpacked:
    place.mkdir(parents=True, exist_ok=True)
    return unpack(io.BytesIO(data), place, prefix=prefix, compression=compression, limits=limits or Limits(), name="It")


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_only_what_is_below_the_folder_comes_out_of_any_compression(tmp_path: Path, compression: Compression) -> None:
    plain = archive(entry("./data/a/b.txt", b"hello" * 1000), entry("etc/passwd", b"no"), entry("database", b"no"))
    data = {"": plain, "gzip": gzip.compress(plain), "zstd": zstandard.compress(plain)}[compression]
    unpacked(data, tmp_path, compression=compression)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["a", "a/b.txt"]
    assert (tmp_path / "a/b.txt").read_bytes() == b"hello" * 1000


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([entry("data/../../x", b"1")], "leads outside"),
        ([entry("data/l", kind=tarfile.SYMTYPE, link="../../etc")], "outside"),
        ([entry("data/l", kind=tarfile.SYMTYPE, link="/etc/passwd")], "outside"),
        ([entry("data/l", kind=tarfile.LNKTYPE, link="etc/shadow")], "hard link"),
        ([entry("data/l", kind=tarfile.LNKTYPE, link="../x")], "leads outside"),
        ([entry("data/d", kind=tarfile.CHRTYPE)], "device"),
        ([entry("data/p", kind=tarfile.FIFOTYPE)], "device or a pipe"),
        ([entry("data/l", kind=tarfile.SYMTYPE, link="s"), entry("data/l/x", b"1")], "through a link"),
        ([entry("data", kind=tarfile.SYMTYPE, link="/etc")], "is a link"),
    ],
)  # fmt: skip
def test_what_leads_outside_is_refused(tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]], why: str) -> None:
    with pytest.raises(Failed) as error:
        unpacked(archive(*entries), tmp_path / "place")
    assert error.value.failure.reason == "ArtifactInvalid"
    assert why in error.value.failure.message
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_a_chain_of_links_that_leads_outside_is_refused_though_each_looks_innocent(tmp_path: Path) -> None:
    place = tmp_path / "place"
    found = unpacked(
        archive(
            entry("data/dir/up", kind=tarfile.SYMTYPE, link=".."),
            entry("data/out", kind=tarfile.SYMTYPE, link="dir/up/.."),
        ),
        place,
    )
    with pytest.raises(Unsafe, match="outside"):
        merge([(place, found)], tmp_path / "tree")


def test_setuid_bits_are_dropped(tmp_path: Path) -> None:
    unpacked(archive(entry("data/x", b"1", mode=0o6755)), tmp_path)
    assert (tmp_path / "x").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize(
    ("limits", "why"),
    [(Limits(ratio=1), "bomb"), (Limits(bytes=1 << 20), "bomb"), (Limits(files=1, ratio=10**6), "more than 1 entries")],
)
def test_bombs_are_refused(tmp_path: Path, limits: Limits, why: str) -> None:
    data = gzip.compress(archive(entry("data/a", bytes(70 << 20)), entry("data/b")), 1)
    with pytest.raises(Failed, match=why):
        unpacked(data, tmp_path, compression="gzip", limits=limits)


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_garbage_is_refused_in_words(tmp_path: Path, compression: Compression) -> None:
    with pytest.raises(Failed) as error:
        unpacked(b"not an archive" * 100, tmp_path, compression=compression)
    assert error.value.failure.reason == "ArtifactInvalid"


def test_a_cut_off_gzip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Failed):
        unpacked(gzip.compress(archive(entry("data/a", b"1" * 9999)))[:-20], tmp_path, compression="gzip")


def test_layers_lie_on_one_another_with_their_whiteouts(tmp_path: Path) -> None:
    lower = {"keep": b"1", "gone": b"1", "old/x": b"1", "same": b"1"}
    upper = {".wh.gone": b"", "old/.wh..wh..opq": b"", "old/y": b"2", "same": b"2"}
    layers = [
        archive(*(entry(f"data/{name}", content) for name, content in lower.items())),
        archive(*(entry(f"data/{name}", content) for name, content in upper.items())),
        archive(entry("data/link", kind=tarfile.LNKTYPE, link="data/keep")),
    ]
    parts = [(tmp_path / str(n), unpacked(layer, tmp_path / str(n))) for n, layer in enumerate(layers)]
    merge(parts, tmp_path / "tree")
    tree = tmp_path / "tree"
    files = {str(path.relative_to(tree)): path.read_text() for path in tree.rglob("*") if path.is_file()}
    assert files == {"keep": "1", "same": "2", "old/y": "2", "link": "1"}
