# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""An image's folder or an artifact's files out of a registry: several layers at once, verified while written.

A layer that is complete is renamed to its digest; so an interrupted pull goes on with those that are missing.
"""

from __future__ import annotations

import json
import os
import posixpath
import shutil
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path

from kaito.api.contracts import OciSource
from kaito.api.names import REASON_ARTIFACT_INVALID
from kaito.runtime.artifacts.layers import merge
from kaito.runtime.artifacts.media import Content, Layer
from kaito.runtime.artifacts.registry import Registry
from kaito.runtime.artifacts.staging import Staging, require_space
from kaito.runtime.artifacts.streams import CHUNK, Stream, Watch
from kaito.runtime.artifacts.unpack import Limits, Unpacked, Unsafe, safe_path, unpack, write_all
from kaito.runtime.failure import Failed

AT_ONCE = 4
"""Layers in flight: enough to keep hash, disk and network busy, few enough for a registry's limits."""


@dataclass(frozen=True, slots=True)
class Pull:
    """One thing to pull into one staging folder."""

    registry: Registry
    source: OciSource
    staging: Staging
    watch: Watch
    limits: Limits = field(default_factory=Limits)

    def run(self, content: Content) -> None:
        """Bring every layer and put them together in the staging's tree; raises Failed."""
        done = sum(layer.blob.size for number, layer in enumerate(content.layers) if self._is_done(number, layer))
        require_space(self.staging.place, content.size - done)
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="layer") as pool:
            futures = [pool.submit(self._layer, content, number) for number in range(len(content.layers))]
            try:
                finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
            except BaseException:
                self.registry.transport.close()
                pool.shutdown(cancel_futures=True)
                raise
        self._together(content)

    def _together(self, content: Content) -> None:
        parts = [(self._place(number, layer), self._note(number, layer)) for number, layer in enumerate(content.layers)]
        try:
            merge(((place / "files", _unpacked(note)) for place, note in parts), self.staging.tree)
        except Unsafe as error:
            raise self._refused(str(error)) from None
        if not any(self.staging.tree.iterdir()):
            why = f"it has no files below {self.source.path}" if content.is_image else "it holds no files"
            raise self._refused(why)

    def _refused(self, why: str) -> Failed:
        step = "An image must hold the files below that folder; see docs/artifacts.md."
        return Failed(REASON_ARTIFACT_INVALID, f"{self.source.reference} cannot be used: {why}.", step)

    def _place(self, number: int, layer: Layer) -> Path:
        return self.staging.parts / f"{number}-{layer.blob.digest.partition(':')[2]}"

    def _note(self, number: int, layer: Layer) -> Path:
        return self._place(number, layer) / "unpacked.json"

    def _is_done(self, number: int, layer: Layer) -> bool:
        return self._place(number, layer).is_dir()

    def _layer(self, content: Content, number: int) -> None:
        layer = content.layers[number]
        place = self._place(number, layer)
        if place.is_dir():
            self.watch(layer.blob.size)
            return
        work = place.with_suffix(".tmp")
        shutil.rmtree(work, ignore_errors=True)
        (work / "files").mkdir(parents=True)
        with self.registry.blob(layer.blob, self.watch) as stream:
            unpacked = self._write(stream, layer, work / "files", is_image=content.is_image)
        (work / "unpacked.json").write_text(json.dumps(asdict(unpacked)), "utf-8")
        work.rename(place)

    def _write(self, stream: Stream, layer: Layer, files: Path, *, is_image: bool) -> Unpacked:
        if layer.file is not None:
            write_file(stream, files, self._file_path(layer.file))
            return Unpacked(files=1, bytes=layer.blob.size)
        prefix = self.source.path if is_image else ""
        name = f"A layer of {self.source.reference}"
        return unpack(stream, files, prefix=prefix, compression=layer.compression, limits=self.limits, name=name)

    def _file_path(self, path: str) -> str:
        try:
            return safe_path(posixpath.normpath(path))
        except Unsafe as error:
            raise self._refused(str(error)) from None


def write_file(stream: Stream, folder: Path, path: str) -> None:
    """Write a stream to a file of the folder, to the end; raises what reading raises."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(target, flags, 0o644), "wb", buffering=0) as file:
        while chunk := stream.read(CHUNK):
            write_all(file, chunk)


def _unpacked(note: Path) -> Unpacked:
    entry = json.loads(note.read_text("utf-8"))
    return Unpacked(**{**entry, "links": [(name, other) for name, other in entry["links"]]})
