# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Archives as folders, safely: nothing is written outside, no device, no setuid bit, no bomb.

Each layer is unpacked into a folder of its own, so that several can be at once; `layers.py` puts them together. What an
archive says about owners is left out: the files belong to who unpacks them.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Protocol, cast

import zstandard

from kaito.api.names import REASON_ARTIFACT_INVALID
from kaito.runtime.artifacts.media import Compression
from kaito.runtime.failure import Failed

CHUNK = 1 << 16
"""As in `streams.py`."""
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
"""https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts"""
FREE_OF_RATIO = 64 << 20
"""What may always be unpacked, whatever its ratio: small files of zeros are no attack."""
LARGEST_ZSTD_WINDOW = 128 << 20


class Source(Protocol):
    """Bytes in order."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes, none at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may grow to."""

    bytes: int = 4 << 40
    files: int = 100_000
    ratio: int = 200
    """Weights hardly compress; gzip makes a thousandth of zeros."""


class Unsafe(Exception):
    """Why an archive is refused, as the rest of a sentence."""


@dataclass(slots=True)
class Unpacked:
    """What a layer adds and takes away, paths relative to the wanted folder."""

    whiteouts: list[str] = field(default_factory=list)
    """Entries of lower layers that are gone."""
    opaque: list[str] = field(default_factory=list)
    """Folders of which nothing of lower layers stays."""
    links: list[tuple[str, str]] = field(default_factory=list)
    """Hard links to files of lower layers: new name, old name."""
    files: int = 0
    bytes: int = 0


class Decompressed:
    """The plain bytes of a compressed stream, counted against the limits."""

    def __init__(self, source: Source, compression: Compression, limits: Limits) -> None:
        self._source = _Counted(source)
        self._plain = _plain(self._source, compression)
        self._limits = limits
        self._buffer = b""
        self.count = 0

    def read(self, size: int = -1, /) -> bytes:
        """Exactly `size` bytes but at the end; raises Unsafe for a bomb."""
        parts, missing = [], size
        while missing > 0:
            chunk = self._buffer or next(self._plain, b"")
            if not chunk:
                break
            self._buffer = chunk[missing:]
            parts.append(chunk[:missing] if self._buffer else chunk)
            missing -= len(parts[-1])
        found = parts[0] if len(parts) == 1 else b"".join(parts)
        self.count += len(found)
        allowed = max(FREE_OF_RATIO, self._source.count * self._limits.ratio)
        if self.count > self._limits.bytes or self.count > allowed:
            raise Unsafe(f"it grows to more than {min(allowed, self._limits.bytes) >> 20} MiB: a decompression bomb")
        return found

    def drain(self) -> None:
        """Read to the end, padding included, so that the digest is of everything."""
        while self.read(CHUNK):
            pass
        while self._source.read(CHUNK):
            pass


class _Counted:
    def __init__(self, source: Source) -> None:
        self._source = source
        self.count = 0

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._source.read(size)
        self.count += len(chunk)
        return chunk


def _plain(source: Source, compression: Compression) -> Iterator[bytes]:
    if compression == "gzip":
        return _gunzip(source)
    if compression == "zstd":
        return _unzstd(source)
    return iter(lambda: source.read(CHUNK), b"")


def _gunzip(source: Source) -> Iterator[bytes]:
    """The plain bytes of a gzip file, which may have several members."""
    member = zlib.decompressobj(wbits=31)
    fed = False
    while chunk := member.unconsumed_tail or source.read(CHUNK):
        while chunk:
            try:
                plain = member.decompress(chunk, CHUNK)
            except zlib.error:
                raise Unsafe("its gzip data are damaged") from None
            fed = True
            if plain:
                yield plain
            chunk = member.unconsumed_tail
            if member.eof:
                chunk, member, fed = member.unused_data.lstrip(b"\0"), zlib.decompressobj(wbits=31), False
    if fed:
        raise Unsafe("its gzip data end too early")


def _unzstd(source: Source) -> Iterator[bytes]:
    reader = zstandard.ZstdDecompressor(max_window_size=LARGEST_ZSTD_WINDOW).stream_reader(
        cast(IO[bytes], source), read_across_frames=True
    )
    try:
        while chunk := reader.read(CHUNK):
            yield chunk
    except zstandard.ZstdError:
        raise Unsafe("its zstd data are damaged") from None


def unpack(
    source: Source, place: Path, *, prefix: str, compression: Compression, limits: Limits, name: str
) -> Unpacked:
    """Unpack what lies below `prefix` in the archive into the folder; reads the source to its end. Raises Failed."""
    plain = Decompressed(source, compression, limits)
    work = _Unpacking(place, _clean(prefix), limits)
    try:
        with tarfile.open(mode="r|", fileobj=cast(IO[bytes], plain), bufsize=CHUNK) as archive:
            for member in archive:
                work.take(archive, member)
        plain.drain()
    except Unsafe as error:
        raise _refused(name, error) from None
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise _refused(name, Unsafe(f"it is no archive ({error})")) from None
    return work.done


def _refused(name: str, why: Unsafe) -> Failed:
    return Failed(REASON_ARTIFACT_INVALID, f"{name} is refused: {why}.", "Ask who made it for a clean one.")


def _clean(path: str) -> str:
    return "" if posixpath.normpath("/" + path) == "/" else posixpath.normpath("/" + path).lstrip("/")


@dataclass(slots=True)
class _Unpacking:
    place: Path
    prefix: str
    limits: Limits
    done: Unpacked = field(default_factory=Unpacked)

    def take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Write one entry, or note that it takes one away."""
        path = safe_path(member.name)
        below = _below(path, self.prefix)
        if below is None or (below == "" and not member.isdir()):
            self._outside(path, member)
            return
        self.done.files += 1
        if self.done.files > self.limits.files:
            raise Unsafe(f"it has more than {self.limits.files} entries")
        parent, leaf = posixpath.split(below)
        if leaf == OPAQUE:
            self.done.opaque.append(parent)
        elif leaf.startswith(WHITEOUT):
            self.done.whiteouts.append(posixpath.join(parent, leaf.removeprefix(WHITEOUT)))
        else:
            self._write(archive, member, below)

    def _outside(self, path: str, member: tarfile.TarInfo) -> None:
        """A lower layer's wanted folder may be taken away as a whole, or be a link."""
        parent, leaf = posixpath.split(path)
        if leaf.startswith(WHITEOUT) and leaf != OPAQUE:
            gone = posixpath.join(parent, leaf.removeprefix(WHITEOUT))
            if _below(self.prefix, gone) is not None and self.prefix:
                self.done.opaque.append("")
        if leaf == OPAQUE and _below(self.prefix, parent) is not None:
            self.done.opaque.append("")
        if path == self.prefix and member.issym():
            raise Unsafe(f"/{self.prefix} is a link to {member.linkname}, not a folder")

    def _write(self, archive: tarfile.TarFile, member: tarfile.TarInfo, below: str) -> None:
        target = self.place / below
        if member.isdir():
            _make_folder(self.place, below)
            return
        _make_folder(self.place, posixpath.dirname(below))
        if target.is_symlink() or target.exists():
            _replace(target, below)
        if member.isreg():
            self._file(archive, member, target)
        elif member.issym():
            target.symlink_to(safe_link(below, member.linkname, self.prefix))
        elif member.islnk():
            self._hard_link(below, member.linkname, target)
        else:
            raise Unsafe(f"{member.name} is a device or a pipe")

    def _file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
        content = archive.extractfile(member)
        assert content is not None
        left = member.size
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
        mode = 0o755 if member.mode & 0o100 else 0o644
        with os.fdopen(os.open(target, flags, mode), "wb", buffering=0) as file:
            while left and (chunk := content.read(min(CHUNK, left))):
                write_all(file, chunk)
                left -= len(chunk)
        if left:
            raise Unsafe(f"{member.name} ends too early")
        self.done.bytes += member.size

    def _hard_link(self, below: str, name: str, target: Path) -> None:
        other = _below(safe_path(name), self.prefix)
        if not other:
            raise Unsafe(f"{below} is a hard link to {name}, which is not below /{self.prefix}")
        source = self.place / other
        if _goes_through_link(self.place, other) or source.is_symlink():
            raise Unsafe(f"{below} is a hard link to {name}, which is a symbolic link")
        if source.is_file():
            os.link(source, target)
        else:
            self.done.links.append((below, other))


def write_all(file: IO[bytes], chunk: bytes) -> None:
    """Write every byte to an unbuffered file."""
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]


def safe_path(name: str) -> str:
    """An entry's path relative to the archive's root; raises Unsafe when it leaves it."""
    if "\0" in name or "\\" in name:
        raise Unsafe(f"{name!r} is no clean path")
    parts = [part for part in PurePosixPath(name.lstrip("/")).parts if part != "."]
    if ".." in parts:
        raise Unsafe(f"{name} leads outside")
    return "/".join(parts)


def safe_link(below: str, target: str, prefix: str) -> str:
    """Where a symbolic link may point, relative to its own folder; raises Unsafe when it leads outside."""
    folder = posixpath.dirname(below)
    if target.startswith("/"):
        inside = _below(_clean(target), prefix)
        if inside is None:
            raise Unsafe(f"{below} is a link to {target}, which is outside")
        return posixpath.relpath(inside or ".", folder or ".")
    landed = posixpath.normpath(posixpath.join(folder, target))
    if landed == ".." or landed.startswith("../"):
        raise Unsafe(f"{below} is a link to {target}, which is outside")
    return target


def _below(path: str, prefix: str) -> str | None:
    """The path relative to the prefix; None when it is not below it."""
    if not prefix:
        return path
    if path == prefix:
        return ""
    return path.removeprefix(prefix + "/") if path.startswith(prefix + "/") else None


def _goes_through_link(place: Path, below: str) -> bool:
    current = place
    for part in PurePosixPath(below).parts[:-1]:
        current = current / part
        if current.is_symlink():
            return True
    return False


def _make_folder(place: Path, below: str) -> None:
    """Make the folder and its parents; raises Unsafe when one of them is a link or a file."""
    current = place
    for part in PurePosixPath(below).parts:
        current = current / part
        if current.is_symlink() or (current.exists() and not current.is_dir()):
            raise Unsafe(f"{below} goes through a link or a file")
        current.mkdir(exist_ok=True)


def _replace(target: Path, below: str) -> None:
    if target.is_dir() and not target.is_symlink():
        raise Unsafe(f"{below} is a folder and a file")
    target.unlink()
