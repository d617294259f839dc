# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Files as an image or a model artifact: which blobs it has, and the manifest that lists them.

Nothing is copied: a blob is a list of files and of bytes between them, read when it is sent. The same files always give
the same digests: no times, users or modes of this machine go in. `push.py` sends what is made here.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from kaito.api.names import REASON_ARTIFACT_INVALID, REASON_INVALID_SPEC
from kaito.runtime.artifacts import media
from kaito.runtime.artifacts.media import Descriptor
from kaito.runtime.artifacts.streams import CHUNK
from kaito.runtime.failure import Failed

SMALL = 1 << 20
"""Files of an image below this size share one layer."""
MOST_LAYERS = 100
"""Container engines take at most 127 layers."""
TAR_BLOCK = 512
TAR_END = bytes(2 * TAR_BLOCK)
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
"""Formats whose loading can run code."""
WEIGHTS = frozenset({".safetensors", ".gguf", ".onnx", *PICKLES})
DOCS = frozenset({".md", ".txt", ".pdf", ".rst"})


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes to send, known by their digest."""

    media_type: str
    pieces: tuple[bytes | Path, ...]
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)

    def descriptor(self) -> Descriptor:
        """The blob as a manifest lists it."""
        return Descriptor(self.media_type, self.digest, self.size, self.annotations)

    def read_from(self, offset: int) -> Iterator[bytes]:
        """The bytes from there on; raises Failed when the files have become shorter or longer meanwhile."""
        left = self.size - offset
        for chunk in _chunks(self.pieces, offset):
            left -= len(chunk)
            if left < 0:
                break
            yield chunk
        if left:
            raise Failed(
                REASON_ARTIFACT_INVALID,
                "A file was changed while it was pushed.",
                "Push again when nothing writes to the folder any more.",
            )


@dataclass(frozen=True, slots=True)
class Packed:
    """What is to be pushed: blobs first, then the manifest."""

    blobs: tuple[Blob, ...]
    manifest: bytes
    media_type: str = media.OCI_MANIFEST

    @property
    def digest(self) -> str:
        """What the whole is known by."""
        return f"sha256:{hashlib.sha256(self.manifest).hexdigest()}"


def image(files: Mapping[str, Path], *, folder: str, annotations: Mapping[str, str]) -> Packed:
    """A container image with the files below the folder, which is all that it holds. Names are relative to it."""
    layers = [_layer(group, folder) for group in _grouped(files)]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        "history": [{"created_by": f"kaito push to /{folder}"} for _ in layers],
    }
    return _packed(_document(config, media.OCI_CONFIG), layers, annotations)


def model(files: Mapping[str, Path], *, config: Mapping[str, object], annotations: Mapping[str, str]) -> Packed:
    """A model artifact after CNCF ModelPack (https://github.com/modelpack/model-spec): every file is a layer."""
    layers = [
        blob((path,), _model_type(name), {media.FILEPATH: name, media.TITLE: name})
        for name, path in sorted(files.items())
    ]
    whole = {**config, "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]}}
    return _packed(_document(whole, media.MODEL_CONFIG), layers, annotations, artifact=media.MODEL_ARTIFACT)


def artifact(files: Mapping[str, Path], *, kind: str, annotations: Mapping[str, str]) -> Packed:
    """An artifact of any kind, as `oras push` makes it: every file is a layer."""
    layers = [blob((path,), media.PLAIN, {media.TITLE: name}) for name, path in sorted(files.items())]
    return _packed(blob((media.OCI_EMPTY_BODY,), media.OCI_EMPTY), layers, annotations, artifact=kind)


def blob(pieces: tuple[bytes | Path, ...], media_type: str, annotations: Mapping[str, str] | None = None) -> Blob:
    """The pieces as a blob; reads them once. Raises Failed when a file cannot be read."""
    digest, size = hashlib.sha256(), 0
    try:
        for chunk in _chunks(pieces, 0):
            digest.update(chunk)
            size += len(chunk)
    except OSError as error:
        what = f"The file {error.filename} cannot be read: {error.strerror}."
        raise Failed(REASON_INVALID_SPEC, what, "Make it readable, or leave it out.") from None
    return Blob(media_type, pieces, f"sha256:{digest.hexdigest()}", size, annotations or {})


def files_of(folder: Path) -> dict[str, Path]:
    """The files of a folder by their path in it; hidden ones and caches are left out. Links are followed, once.

    Raises Failed when there is none, or a link leads nowhere.
    """
    if not folder.is_dir():
        raise Failed(REASON_INVALID_SPEC, f"{folder} is no folder.", "Name the folder that holds the files.")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith(".") or part == "__pycache__" for part in name.parts) or path.is_dir():
            continue
        if not path.is_file():
            raise Failed(REASON_INVALID_SPEC, f"{path} is no file that can be read.", "Remove it, or repair the link.")
        found[name.as_posix()] = path
    if not found:
        raise Failed(REASON_INVALID_SPEC, f"The folder {folder} holds no files.", "Name the folder with the files.")
    return found


def only_safe(files: Mapping[str, Path]) -> Mapping[str, Path]:
    """The files; raises Failed when weights are in a format whose loading can run code."""
    pickles = sorted(name for name in files if PurePosixPath(name).suffix in PICKLES)
    if pickles:
        what = f"{pickles[0]} is in a format that can run code when it is loaded."
        raise Failed(REASON_INVALID_SPEC, what, "Convert it to safetensors, or insist with --allow-pickle.")
    return files


def _packed(config: Blob, layers: Sequence[Blob], annotations: Mapping[str, str], *, artifact: str = "") -> Packed:
    manifest = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        **({"artifactType": artifact} if artifact else {}),
        "config": config.descriptor().document(),
        "layers": [layer.descriptor().document() for layer in layers],
        **({"annotations": dict(sorted(annotations.items()))} if annotations else {}),
    }
    blobs = {one.digest: one for one in (*layers, config)}
    return Packed(tuple(blobs.values()), json.dumps(manifest, indent=2).encode())


def _document(value: Mapping[str, object], media_type: str) -> Blob:
    return blob((json.dumps(value, sort_keys=True).encode(),), media_type)


def _grouped(files: Mapping[str, Path]) -> list[list[tuple[str, Path]]]:
    """The files of each layer: large ones alone, as long as there are not too many; the small ones together."""
    entries = sorted(files.items())
    large = [entry for entry in entries if entry[1].stat().st_size >= SMALL]
    small = [entry for entry in entries if entry[1].stat().st_size < SMALL]
    if len(large) <= MOST_LAYERS:
        alone = [[entry] for entry in large]
    else:
        alone = [large[first::MOST_LAYERS] for first in range(MOST_LAYERS)]
    return ([small] if small else []) + alone


def _layer(files: Iterable[tuple[str, Path]], folder: str) -> Blob:
    pieces: list[bytes | Path] = []
    made: set[str] = set()
    for name, path in files:
        inside = PurePosixPath(folder, name)
        for parent in reversed(inside.parents):
            if str(parent) not in (".", *made):
                made.add(str(parent))
                pieces.append(_header(f"{parent}/", 0, tarfile.DIRTYPE))
        size = path.stat().st_size
        pieces += [_header(str(inside), size, tarfile.REGTYPE), path, bytes(-size % TAR_BLOCK)]
    return blob((*pieces, TAR_END), media.OCI_LAYER)


def _header(name: str, size: int, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, size, 0o755 if kind == tarfile.DIRTYPE else 0o644
    return info.tobuf(tarfile.PAX_FORMAT)


def _model_type(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in WEIGHTS:
        return media.MODEL_WEIGHT
    if suffix == ".py":
        return media.MODEL_CODE
    is_doc = suffix in DOCS and not PurePosixPath(name).name.startswith(("merges", "vocab"))
    return media.MODEL_DOC if is_doc or PurePosixPath(name).name.startswith("LICENSE") else media.MODEL_WEIGHT_CONFIG


def _chunks(pieces: Sequence[bytes | Path], offset: int) -> Iterator[bytes]:
    """The bytes of the pieces, one after the other, without the first `offset`."""
    for piece in pieces:
        length = len(piece) if isinstance(piece, bytes) else piece.stat().st_size
        if offset >= length:
            offset -= length
        elif isinstance(piece, bytes):
            yield piece[offset:]
            offset = 0
        else:
            with piece.open("rb") as file:
                file.seek(offset)
                offset = 0
                while chunk := file.read(CHUNK):
                    yield chunk
