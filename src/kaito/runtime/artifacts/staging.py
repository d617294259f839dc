# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A folder that appears whole or not at all.

What comes in is gathered in a hidden folder beside the destination and moved there when it is complete and verified.
The hidden folder has a fixed name: a container that is started again goes on where it was ended. A file in the
finished folder says what it was filled from, so that the same is not fetched twice.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kaito.api.names import REASON_ARTIFACT_INVALID, REASON_DISK_FULL
from kaito.runtime.failure import Failed

MARKER = ".kaito-fetch.json"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Record:
    """What a finished folder says about itself."""

    source: str
    """A hash of what was asked for."""
    digest: str | None
    """Of what was found, where there is one."""
    sizes: dict[str, int]
    """Bytes of every file: a machine that lost its power may have lost the end of some."""

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes.values())


def recorded(folder: Path) -> Record | None:
    """What the folder was filled from, if it was and nothing is missing; else None."""
    try:
        entry = json.loads((folder / MARKER).read_text("utf-8"))
        record = Record(entry["source"], entry["digest"], {str(key): int(size) for key, size in entry["sizes"].items()})
        whole = all((folder / name).stat().st_size == size for name, size in record.sizes.items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return record if whole else None


def is_free(folder: Path) -> bool:
    """Whether the folder may be filled: it is not there, is empty, or was filled by an earlier call."""
    if not folder.is_dir():
        return not folder.exists()
    names = [entry.name for entry in folder.iterdir()]
    entries = [name for name in names if name != "lost+found" and not name.startswith(".kaito-")]
    return not entries or (folder / MARKER).is_file()


@dataclass(frozen=True, slots=True)
class Staging:
    """The hidden folder of one destination."""

    destination: Path
    place: Path
    source: str
    found: Record | None = None
    """The destination as somebody else filled it from the same source, while we waited for the lock."""

    @property
    def tree(self) -> Path:
        """What becomes the destination."""
        return self.place / "tree"

    @property
    def parts(self) -> Path:
        """For what is needed on the way."""
        return self.place / "parts"

    def finish(self, digest: str | None) -> Record:
        """Write the marker and move the tree to the destination."""
        record = Record(self.source, digest, sizes(self.tree))
        text = json.dumps({"source": record.source, "digest": digest, "sizes": record.sizes}, indent=1)
        (self.tree / MARKER).write_text(text + "\n", "utf-8")
        if os.path.ismount(self.destination):
            self._fill()
        else:
            self._swap()
        shutil.rmtree(self.place, ignore_errors=True)
        return record

    def _swap(self) -> None:
        """Replace the destination; what was there goes out of the way first, and is deleted last."""
        old = self.place / "old"
        if self.destination.exists():
            shutil.rmtree(old, ignore_errors=True)
            self.destination.rename(old)
        self.tree.rename(self.destination)

    def _fill(self) -> None:
        """A mount point cannot be replaced: its old content goes, the marker first, and comes, the marker last."""
        (self.destination / MARKER).unlink(missing_ok=True)
        for entry in list(self.destination.iterdir()):
            if entry != self.place and entry.name != "lost+found":
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        for entry in sorted(self.tree.iterdir(), key=lambda entry: entry.name == MARKER):
            entry.rename(self.destination / entry.name)


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file below the folder, by its path relative to it; links are left out."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.name != MARKER
    }


@contextmanager
def staged(destination: Path, source: str) -> Iterator[Staging]:
    """The hidden folder, held by us alone; what an earlier try for the same source left is still in it.

    Several processes that want the same wait for each other, and all but the first find it there (`found`). Nothing is
    looked at or made before the lock is held: the holder removes and replaces both folders.

    Raises Failed when the destination may not be filled or the disk is full; then nothing stays.
    """
    inside = os.path.ismount(destination)
    place = destination / ".kaito-partial" if inside else destination.parent / f".{destination.name}.kaito-partial"
    try:
        with locked(place.with_name(place.name + ".lock")):
            there = recorded(destination)
            if there is not None and there.source == source:
                yield Staging(destination, place, source, there)
                return
            if not is_free(destination):
                what = f"The folder {destination} holds files that were not fetched here."
                raise Failed(REASON_ARTIFACT_INVALID, what, "Name another folder, or empty this one.")
            yield _prepared(destination, place, source)
    except OSError as error:
        raise disk_trouble(error, place) from None


def _prepared(destination: Path, place: Path, source: str) -> Staging:
    note = place / "source"
    if not note.is_file() or note.read_text("utf-8") != source:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        note.write_text(source, "utf-8")
    staging = Staging(destination, place, source)
    shutil.rmtree(staging.tree, ignore_errors=True)
    staging.parts.mkdir(exist_ok=True)
    return staging


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the file's lock; it is let go of when this process ends, however it ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)


def disk_trouble(error: OSError, place: Path) -> Failed:
    """A Failed for a file system that does not take the files; a full one is emptied of what we put there."""
    if error.errno in NO_SPACE:
        shutil.rmtree(place, ignore_errors=True)
        what = f"The disk that holds {place.parent} is full."
        return Failed(REASON_DISK_FULL, what, "Give the volume or the node more space; it is tried again then.")
    what = f"{error.filename or place} cannot be written: {error.strerror or error}."
    return Failed(REASON_ARTIFACT_INVALID, what, "The folder must be writable for the container's user.")


def require_space(place: Path, needed: int) -> None:
    """Raise Failed (DiskFull) when fewer bytes are free there than will surely be needed."""
    free = shutil.disk_usage(place).free
    if needed > free:
        what = f"{needed >> 20} MiB are needed, and the disk that holds {place} has {free >> 20} MiB free."
        shutil.rmtree(place, ignore_errors=True)
        raise Failed(REASON_DISK_FULL, what, "Give the volume or the node more space; it is tried again then.")
