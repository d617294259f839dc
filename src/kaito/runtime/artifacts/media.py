# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a registry's manifests say: media types, descriptors, and which of an index's manifests is for this machine.

Image manifests of OCI (https://github.com/opencontainers/image-spec) and Docker, CNCF ModelPack's model artifacts
(https://github.com/modelpack/model-spec, media types `application/vnd.cncf.model.*`; `vnd.cnai.model` before it was
renamed) and plain file artifacts as `oras` makes them. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_EMPTY_BODY = b"{}"
"""What a config of the type `OCI_EMPTY` holds (image-spec, "Guidance for an Empty Descriptor")."""
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = (OCI_INDEX, DOCKER_INDEX)

MODEL_PREFIX = "application/vnd.cncf.model"
MODEL_ARTIFACT = f"{MODEL_PREFIX}.manifest.v1+json"
MODEL_CONFIG = f"{MODEL_PREFIX}.config.v1+json"
MODEL_WEIGHT = f"{MODEL_PREFIX}.weight.v1.raw"
MODEL_WEIGHT_CONFIG = f"{MODEL_PREFIX}.weight.config.v1.raw"
MODEL_DOC = f"{MODEL_PREFIX}.doc.v1.raw"
MODEL_CODE = f"{MODEL_PREFIX}.code.v1.raw"
FILEPATH = "org.cncf.model.filepath"
TITLE = "org.opencontainers.image.title"
FILEPATHS = (FILEPATH, "org.cnai.model.filepath", TITLE)
"""Annotations that say where a layer's file goes, in the order of trust."""
PLAIN = "application/octet-stream"
UNPACK = "io.deis.oras.content.unpack"
"""`oras push` sets it to true on a folder, which it packs."""

Compression = Literal["", "gzip", "zstd"]
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob or a manifest by its digest and size."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The descriptor as a manifest holds it."""
        found: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return {**found, **({"annotations": dict(self.annotations)} if self.annotations else {})}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer, and what becomes of it."""

    blob: Descriptor
    file: str | None = None
    """The blob is this file; None: it is an archive."""
    compression: Compression = ""


@dataclass(frozen=True, slots=True)
class Content:
    """What a manifest describes."""

    is_image: bool
    """The layers are changes of one file system, in order; else each is a file or an archive of its own."""
    layers: tuple[Layer, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all the layers as they are stored."""
        return sum(layer.blob.size for layer in self.layers)


def descriptor(entry: object) -> Descriptor:
    """A descriptor of a manifest; raises ValueError when it is none."""
    if not isinstance(entry, dict):
        raise ValueError("a descriptor is no map")
    digest, size = entry.get("digest"), entry.get("size")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ValueError(f"{str(digest)[:100]} is no digest")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ValueError(f"the size of {digest} is no number of bytes")
    annotations = entry.get("annotations") or {}
    platform = entry.get("platform") or {}
    if not isinstance(annotations, dict) or not isinstance(platform, dict):
        raise ValueError(f"annotations or platform of {digest} are no map")
    texts = {str(key): str(value) for key, value in annotations.items()}
    return Descriptor(str(entry.get("mediaType") or ""), digest, size, texts, platform)


def document(body: bytes) -> dict[str, Any]:
    """A manifest's JSON; raises ValueError."""
    try:
        found = json.loads(body)
    except ValueError:
        raise ValueError("it is no JSON") from None
    if not isinstance(found, dict):
        raise ValueError("it is no map")
    return found


def is_index(manifest: Mapping[str, Any], media_type: str) -> bool:
    """Whether the document lists manifests rather than layers."""
    return manifest.get("mediaType", media_type) in INDEXES or ("manifests" in manifest and "layers" not in manifest)


def choose(index: Mapping[str, Any], architecture: str) -> Descriptor:
    """The manifest of an index for Linux on this architecture (Go's word for it), else the only one there is.

    Attestations, which builders store beside images, are passed over. Raises ValueError naming what there is.
    """
    entries = [descriptor(entry) for entry in index.get("manifests") or []]
    real = [entry for entry in entries if "vnd.docker.reference.type" not in entry.annotations]
    fits = [
        entry
        for entry in real
        if entry.platform.get("os") == "linux" and entry.platform.get("architecture") == architecture
    ]
    anywhere = [entry for entry in real if entry.platform.get("os", "unknown") == "unknown"]
    chosen = fits or anywhere or (real if len(real) == 1 else [])
    if not chosen:
        there = ", ".join(f"{entry.platform.get('os')}/{entry.platform.get('architecture')}" for entry in real)
        raise ValueError(f"it has nothing for linux/{architecture}, but {there or 'nothing at all'}")
    return chosen[0]


def content(manifest: Mapping[str, Any]) -> Content:
    """What the manifest describes; raises ValueError when it cannot be understood."""
    if manifest.get("schemaVersion") != 2 or not isinstance(manifest.get("layers"), list):
        raise ValueError("it is no image manifest of version 2")
    blobs = [descriptor(entry) for entry in manifest["layers"]]
    blobs = [blob for blob in blobs if blob.media_type != OCI_EMPTY]
    is_image = _is_image(manifest, blobs)
    layers = tuple(_image_layer(blob) if is_image else _artifact_layer(blob) for blob in blobs)
    annotations = manifest.get("annotations") or {}
    return Content(is_image, layers, {str(key): str(value) for key, value in annotations.items()})


def _is_image(manifest: Mapping[str, Any], blobs: list[Descriptor]) -> bool:
    config = (manifest.get("config") or {}).get("mediaType")
    if manifest.get("artifactType") or config not in (OCI_CONFIG, DOCKER_CONFIG):
        return False
    return not any(_file_path(blob) for blob in blobs)


def _image_layer(blob: Descriptor) -> Layer:
    if ".tar" not in blob.media_type:
        raise ValueError(f"a layer has the unknown media type {blob.media_type[:100]}")
    return Layer(blob, compression=_compression(blob.media_type))


def _artifact_layer(blob: Descriptor) -> Layer:
    path = _file_path(blob)
    is_archive = re.search(r"\.tar(\+|\.|$)|\.tar$", blob.media_type) is not None
    is_plain_file = path is not None and blob.annotations.get(UNPACK) != "true"
    if is_archive and (path is None or blob.media_type.startswith((MODEL_PREFIX, "application/vnd.cnai.model"))):
        return Layer(blob, compression=_compression(blob.media_type))
    if is_plain_file:
        return Layer(blob, file=path)
    if path is not None:
        return Layer(blob, compression=_compression(blob.media_type) or "gzip")
    raise ValueError(f"a layer of type {blob.media_type[:100]} does not say which file it is ({FILEPATH})")


def _file_path(blob: Descriptor) -> str | None:
    return next((blob.annotations[key] for key in FILEPATHS if blob.annotations.get(key)), None)


def _compression(media_type: str) -> Compression:
    if media_type.endswith(("gzip", ".gz")):
        return "gzip"
    return "zstd" if media_type.endswith(("zstd", "zst")) else ""
