# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Folders of object stores: what lies below a prefix, and each object as a verified download that can be resumed.

How each cloud lists and signs is in `s3.py`, `gcs.py` and `azure.py`, which need that cloud's package. The rest is the
same for all: the bytes come over our own connections, several objects at once, and one that is replaced while it is
read is refused.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from kaito.api.buckets import Folder, parse
from kaito.api.contracts import BucketSource
from kaito.api.names import (
    REASON_ARTIFACT_INVALID,
    REASON_ARTIFACT_NOT_FOUND,
    REASON_ARTIFACT_UNAUTHORIZED,
    REASON_ENGINE_MISSING,
    REASON_INVALID_SPEC,
    WEIGHTS_URI_SECRET_ANNOTATION,
)
from kaito.runtime.artifacts.pack import PICKLES
from kaito.runtime.artifacts.pull import AT_ONCE, write_file
from kaito.runtime.artifacts.staging import Staging, require_space
from kaito.runtime.artifacts.streams import Stream, Watch
from kaito.runtime.artifacts.transport import Response, Transport, Unreachable, unavailable
from kaito.runtime.artifacts.unpack import Unsafe, safe_path
from kaito.runtime.failure import Failed

MODULES = {"s3": "s3", "gs": "gcs", "az": "azure"}
PAGE_LIMIT = 32 << 20
MOST_OBJECTS = 10_000
"""More than any model has files: the address is of something else."""
KEY_LIMIT = 64 << 10


@dataclass(frozen=True, slots=True)
class Stored:
    """An object."""

    key: str
    size: int
    version: str
    """Changes with the content: an ETag or a generation."""
    digest: str | None = None
    """`md5:…`, where the list tells it."""


@dataclass(frozen=True, slots=True)
class Request:
    """How to ask for something, signed for now."""

    url: str
    headers: Mapping[str, str]


def from_offset(offset: int) -> dict[str, str]:
    """The header that asks for the rest."""
    return {"Range": f"bytes={offset}-"} if offset else {}


class Store(Protocol):
    """What differs between the clouds."""

    def list_request(self, prefix: str, token: str) -> Request:
        """A page of the objects whose keys begin with the prefix."""

    def page(self, body: bytes) -> tuple[list[Stored], str]:
        """What a page says: objects, and the token of the next page. Raises ValueError."""

    def object_request(self, stored: Stored, offset: int) -> Request:
        """The content of an object in this version, from an offset on."""

    def digest(self, stored: Stored, headers: Mapping[str, str]) -> str | None:
        """What the content hashes to, as `md5:…`, from the list or the head of the answer; None where neither tells."""


def keys_in(places: Sequence[Path]) -> dict[str, str]:
    """A mounted Secret's keys with what they hold; raises Failed for one that is no text."""
    found = {}
    for place in places:
        for file in sorted(place.iterdir()) if place.is_dir() else ():
            if file.name.startswith(".") or not file.is_file():
                continue
            try:
                found[file.name] = file.read_bytes()[:KEY_LIMIT].decode().strip()
            except (OSError, UnicodeDecodeError):
                what = f"The Secret's key {file.name} holds no text."
                raise Failed(REASON_INVALID_SPEC, what, "See docs/artifacts.md for the keys of each cloud.") from None
    return found


def store_for(folder: Folder, keys: Mapping[str, str]) -> Store:
    """The folder's cloud; raises Failed where its package is missing, or the keys are unusable."""
    try:
        module = importlib.import_module(f"kaito.runtime.artifacts.{MODULES[folder.cloud]}")
    except ModuleNotFoundError as error:
        what = f"The image cannot read {folder.cloud}:// addresses: the package {error.name} is missing."
        raise Failed(REASON_ENGINE_MISSING, what, "Use an image with `pip install 'kaito[buckets]'`.") from None
    store: Store = module.store(folder, keys)
    return store


def download(
    source: BucketSource,
    keys: Mapping[str, str],
    transport: Transport,
    staging: Staging,
    *,
    watch: Watch,
    expect: Callable[[int], None],
) -> str:
    """Bring the folder's files into the staging's tree; a hash of what they were. Raises Failed.

    Files that an earlier try brought whole, in the same version, are not asked for again.
    """
    try:
        folder = parse(source.uri)
    except ValueError as error:
        raise Failed(REASON_INVALID_SPEC, str(error), "Correct the address.") from None
    bucket = Bucket(folder, store_for(folder, keys), transport)
    files = bucket.files()
    wanted = safe(files, folder) if source.only_safe else files
    parts = {path: staging.parts / _part_name(path, wanted[path]) for path in wanted}
    expect(sum(one.size for one in wanted.values()))
    missing = [path for path in wanted if not parts[path].is_file()]
    require_space(staging.place, sum(wanted[path].size for path in missing))
    watch(sum(one.size for path, one in wanted.items() if path not in missing))
    bucket.bring({parts[path]: wanted[path] for path in missing}, watch)
    for path, part in parts.items():
        target = staging.tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        part.rename(target)
    said = "".join(f"{path}\0{one.version}\0{one.size}\n" for path, one in sorted(wanted.items()))
    return f"sha256:{hashlib.sha256(said.encode()).hexdigest()}"


def _part_name(path: str, stored: Stored) -> str:
    """Names an object's content: one that was replaced since an earlier try is another."""
    return hashlib.sha256(f"{path}\0{stored.version}".encode()).hexdigest()


def safe(files: Mapping[str, Stored], folder: Folder) -> dict[str, Stored]:
    """The files without those that can run code when they are loaded; raises Failed when no weights are left."""
    kept = {path: one for path, one in files.items() if PurePosixPath(path).suffix not in PICKLES}
    if len(kept) < len(files) and not any(path.endswith(".safetensors") for path in kept):
        left_out = min(set(files) - set(kept))
        what = f"{folder} holds weights only as {left_out}, a format that can run code when it is loaded."
        raise Failed(REASON_ARTIFACT_INVALID, what, "Convert them to safetensors, and upload those.")
    return kept


@dataclass(frozen=True, slots=True)
class Bucket:
    """One folder, and how it is asked."""

    folder: Folder
    store: Store
    transport: Transport

    def files(self) -> dict[str, Stored]:
        """The objects below the folder, by their path in it; raises Failed when there are none, or too many."""
        prefix = f"{self.folder.path}/" if self.folder.path else ""
        found: dict[str, Stored] = {}
        for stored in self._objects(prefix):
            path = stored.key.removeprefix(prefix)
            if not path or path.endswith("/"):
                continue  # how some tools mark a folder
            found[self._clean(path)] = stored
            if len(found) > MOST_OBJECTS:
                what = f"{self.folder} holds more than {MOST_OBJECTS} objects."
                raise Failed(REASON_INVALID_SPEC, what, "Name the folder that holds the model's files.")
        if not found:
            what = f"{self.folder} holds no files."
            raise Failed(REASON_ARTIFACT_NOT_FOUND, what, "Correct the address: it names the folder with config.json.")
        return found

    def _clean(self, path: str) -> str:
        try:
            if safe_path(path) == path:
                return path
        except Unsafe:
            pass
        what = f"{self.folder} holds an object whose name is no path of a file: {path[:200]!r}."
        raise Failed(REASON_ARTIFACT_INVALID, what, "Name a folder with a model's files alone.")

    def _objects(self, prefix: str) -> Iterator[Stored]:
        token = ""
        while True:
            response = self._asked(self.store.list_request(prefix, token))
            try:
                objects, token = self.store.page(self.transport.read(response, PAGE_LIMIT))
            except (Unreachable, ValueError) as error:
                raise unavailable(f"{self.folder} cannot be listed", error) from None
            yield from objects
            if not token:
                return

    def bring(self, files: Mapping[Path, Stored], watch: Watch) -> None:
        """Write each object to its file, whole or not at all; raises Failed."""
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="object") as pool:
            futures = [pool.submit(self._bring, part, stored, watch) for part, stored in files.items()]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                self.transport.close()
                pool.shutdown(cancel_futures=True)
                raise

    def _bring(self, part: Path, stored: Stored, watch: Watch) -> None:
        name = f"{stored.key.rpartition('/')[2]} of {self.folder}"
        scratch = f"{part.name}.tmp"
        first = [self._opened(stored, 0)]
        digest = self.store.digest(stored, first[0].headers)

        def opened(offset: int) -> Response:
            return first.pop() if first and offset == 0 else self._opened(stored, offset)

        with Stream(self.transport, opened, name=name, digest=digest, size=stored.size, watch=watch) as stream:
            write_file(stream, part.parent, scratch)
        (part.parent / scratch).rename(part)

    def _opened(self, stored: Stored, offset: int) -> Response:
        return self._asked(self.store.object_request(stored, offset))

    def _asked(self, request: Request) -> Response:
        try:
            response = self.transport.request("GET", request.url, headers=request.headers)
        except Unreachable as error:
            raise unavailable(f"{self.folder} cannot be reached", error) from None
        if response.status < 300:
            return response
        self.transport.done(response)
        raise self._refused(response.status)

    def _refused(self, status: int) -> Failed:
        if status in (401, 403):
            what = f"{self.folder} may not be read with these credentials: status {status}."
            step = (
                f"Name a Secret with keys that may list and read it in the annotation {WEIGHTS_URI_SECRET_ANNOTATION}."
            )
            return Failed(REASON_ARTIFACT_UNAUTHORIZED, what, step)
        if status == 404:
            what = f"There is no {self.folder}."
            return Failed(REASON_ARTIFACT_NOT_FOUND, what, "Correct the address.")
        if status == 412:
            what = f"An object of {self.folder} was replaced while it was read."
            return Failed(REASON_ARTIFACT_INVALID, what, "Nothing to do: the next try takes the new one.")
        if status in (301, 307, 400):
            what = f"{self.folder} is not where it was looked for: status {status}."
            return Failed(REASON_ARTIFACT_NOT_FOUND, what, "Give the bucket's region in the Secret's key AWS_REGION.")
        return unavailable(f"{self.folder} cannot be read", f"the store answers with status {status}")
