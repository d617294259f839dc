# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Files into a registry, as a container image (`push_image`) or as a model artifact (`push_model`).

Blobs that the registry has are not sent again, so a push that was ended goes on where it was. How blobs are made stands
in `pack.py`, how one is sent in `upload.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kaito.api.names import REASON_ARTIFACT_INVALID, REASON_INVALID_SPEC
from kaito.api.references import Reference, mirrored, parse
from kaito.runtime.artifacts import pack
from kaito.runtime.artifacts.credentials import logins
from kaito.runtime.artifacts.pack import Packed
from kaito.runtime.artifacts.registry import Registry
from kaito.runtime.artifacts.streams import Watch
from kaito.runtime.artifacts.transport import Patience, Transport, Unreachable
from kaito.runtime.artifacts.upload import Upload
from kaito.runtime.failure import Failed

AT_ONCE = 4
"""Blobs under way at a time."""
IMAGE_FOLDER = "data"
"""Where KAITO's images hold their files."""
LICENSES = "org.opencontainers.image.licenses"
REVISION = "org.opencontainers.image.revision"
SOURCE = "org.opencontainers.image.source"


@dataclass(frozen=True, slots=True)
class Target:
    """Where to push to."""

    reference: str
    """As users write it: `registry/name:tag`."""
    credentials: tuple[Path, ...] = ()
    """Docker `config.json` files, or folders of them (a mounted push secret is one)."""
    ca_file: Path | None = None
    """Further certificate authorities (PEM) to trust."""
    mirrors: Mapping[str, str] = field(default_factory=dict)
    """Where to push instead, by registry."""
    ask_helpers: bool = False
    """Ask the credential helpers that the files name: programs, so only on somebody's own machine."""
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True, slots=True)
class Pushed:
    """What lies in the registry now."""

    reference: str
    digest: str
    """Of the manifest: `name@digest` is this very content for ever."""
    bytes: int
    """Of all blobs."""
    sent: int
    """Of those that the registry did not have."""


def push_image(
    files: Mapping[str, Path] | Path,
    target: Target,
    *,
    folder: str = IMAGE_FOLDER,
    annotations: Mapping[str, str] | None = None,
    watch: Watch = lambda count: None,
) -> Pushed:
    """Push files (by their name in the image, or a whole folder) as a container image that holds them below `/folder`.

    That is the layout of KAITO's adapter and data-set images. `watch` is told, from other threads, how many bytes the
    registry took (or lost again). Raises Failed.
    """
    with connected(target) as registry:
        found = pack.files_of(files) if isinstance(files, Path) else files
        return _push(registry, pack.image(found, folder=folder, annotations=annotations or {}), watch)


def push_model(
    files: Mapping[str, Path] | Path,
    target: Target,
    *,
    annotations: Mapping[str, str] | None = None,
    allow_pickle: bool = False,
    watch: Watch = lambda count: None,
) -> Pushed:
    """Push files (by their name in the artifact, or a whole folder) as an artifact after CNCF ModelPack: a file a
    layer. Raises Failed."""
    with connected(target) as registry:
        found = pack.files_of(files) if isinstance(files, Path) else files
        found = found if allow_pickle else pack.only_safe(found)
        notes = annotations or {}
        return _push(registry, pack.model(found, config=_model_config(target, notes), annotations=notes), watch)


def push_files(
    files: Mapping[str, Path], target: Target, *, kind: str, annotations: Mapping[str, str] | None = None
) -> Pushed:
    """Push files as an artifact of the kind (a media type): a file a layer. Raises Failed."""
    with connected(target) as registry:
        packed = pack.artifact(files, kind=kind, annotations=annotations or {})
        return _push(registry, packed, lambda count: None)


def _model_config(target: Target, annotations: Mapping[str, str]) -> Mapping[str, object]:
    """The descriptor of ModelPack's configuration, from the annotations that say the same to every registry."""
    name = parse(target.reference).repository.rpartition("/")[2]
    known = {"name": name, "sourceURL": annotations.get(SOURCE), "revision": annotations.get(REVISION)}
    licenses = annotations.get(LICENSES)
    descriptor = {
        **{key: value for key, value in known.items() if value},
        **({"licenses": [licenses]} if licenses else {}),
    }
    return {"descriptor": descriptor, "config": {"format": "safetensors"}}


@contextmanager
def connected(target: Target, *, deletes: bool = False) -> Iterator[Registry]:
    """The registry to push to, connected before anything is read: what is wrong with it is said at once."""
    reference = _reference(target)
    transport = Transport(target.ca_file, target.patience)
    try:
        known = logins(target.credentials, reference, helpers=target.ask_helpers)
        registry = Registry(transport, reference, known, writes=True, deletes=deletes)
        registry.connect()
        yield registry
    finally:
        transport.close()


def _reference(target: Target) -> Reference:
    try:
        reference = parse(target.reference)
    except ValueError as error:
        raise Failed(REASON_INVALID_SPEC, str(error), "Write registry/name:tag, as `docker push` takes it.") from None
    if reference.digest:
        what = f"{reference} names a digest, and what is pushed has one of its own."
        raise Failed(REASON_INVALID_SPEC, what, "Write registry/name:tag.")
    return mirrored(reference, target.mirrors)


def _push(registry: Registry, packed: Packed, watch: Watch) -> Pushed:
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="blob") as pool:
        futures = [pool.submit(Upload(registry, blob, watch).run) for blob in packed.blobs]
        try:
            finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in finished:
                future.result()
        except BaseException:
            registry.transport.close()
            pool.shutdown(cancel_futures=True)
            raise
        sent = sum(blob.size for blob, future in zip(packed.blobs, futures, strict=True) if future.result())
    _put_manifest(registry, packed)
    return Pushed(str(registry.reference), packed.digest, sum(blob.size for blob in packed.blobs), sent)


def _put_manifest(registry: Registry, packed: Packed) -> None:
    """Put the manifest under the tag, and see that the registry knows it by the digest that we know; raises Failed."""
    path = f"manifests/{registry.reference.wanted}"
    response = registry.send("PUT", path, headers={"Content-Type": packed.media_type}, body=packed.manifest)
    digest = response.headers.get("Docker-Content-Digest") or ""
    registry.transport.done(response)
    try:
        if not digest:
            response = registry.send("HEAD", path, headers={"Accept": packed.media_type})
            digest = response.headers.get("Docker-Content-Digest") or packed.digest
            registry.transport.done(response)
    except Unreachable as error:
        raise registry.unavailable(error) from None
    if digest != packed.digest:
        what = f"The registry {registry.reference.registry} changed what was pushed: it is known there as {digest}."
        raise Failed(
            REASON_ARTIFACT_INVALID, what, "A proxy or a rule of the registry rewrites manifests; use another."
        )
