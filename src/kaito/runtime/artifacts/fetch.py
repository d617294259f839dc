# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito-runtime fetch`, and the same in process: brings what a FetchItem names into its folder.

What is there already is not asked for again. How a registry is read stands in `pull.py`, how folders appear whole in
`staging.py`.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from kaito.api.contracts import BucketSource, FetchConfig, FetchItem, HubSource, OciSource, UrlSource
from kaito.api.names import REASON_INVALID_SPEC
from kaito.api.references import Reference, mirrored, parse
from kaito.runtime.artifacts import buckets, hub
from kaito.runtime.artifacts.credentials import logins
from kaito.runtime.artifacts.pull import Pull
from kaito.runtime.artifacts.registry import Registry
from kaito.runtime.artifacts.staging import Record, Staging, recorded, staged
from kaito.runtime.artifacts.streams import Watch
from kaito.runtime.artifacts.transport import Transport
from kaito.runtime.artifacts.urls import download
from kaito.runtime.failure import Failed, failure_line, write_termination_message
from kaito.runtime.settings import Settings
from kaito.runtime.starting import Fetching, Teller


@dataclass(frozen=True, slots=True)
class Fetched:
    """A destination that is there."""

    destination: Path
    digest: str | None
    """Of the manifest, or the commit of a hub."""
    bytes: int
    was_there: bool
    """Nothing had to be done."""


@dataclass(frozen=True, slots=True)
class Errand:
    """One item with everything that bringing it needs."""

    item: FetchItem
    config: FetchConfig
    settings: Settings
    transport: Transport
    watch: Watch = field(default=lambda count: None)
    expect: Callable[[int], None] = field(default=lambda total: None)
    """Told how many bytes `watch` will be told of in all, where that is known."""


def fetch(config_path: str, settings: Settings) -> int:
    """Bring every item of a FetchConfig; 0, or 1 with the failure as the termination message."""
    try:
        config = load_config(settings.path(config_path))
        teller = Teller(say)
        for item in config.items:
            began = time.monotonic()
            got = fetch_item(item, config, settings, Fetching(teller, item.name, time.monotonic))
            how = "was there" if got.was_there else f"fetched in {time.monotonic() - began:.1f} s"
            say(f"kaito-runtime: {item.name} {how}: {got.bytes >> 20} MiB, {got.digest or 'no digest'}")
    except Failed as error:
        say(failure_line(error.failure))
        write_termination_message(error.failure, settings.path(settings.termination_log))
        return 1
    return 0


def say(line: str) -> None:
    """One line for the log."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def load_config(path: Path) -> FetchConfig:
    """The config file; raises Failed naming the field that is wrong."""
    step = "The operator writes this file; delete the pod to have it mounted anew, or correct it if it is yours."
    try:
        return FetchConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise Failed(REASON_INVALID_SPEC, f"The config file {path} cannot be read: {error.strerror}.", step) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise Failed(
            REASON_INVALID_SPEC, f"The config file {path} is wrong at {where}: {first['msg']}.", step
        ) from None


def fetch_item(item: FetchItem, config: FetchConfig, settings: Settings, progress: Fetching | None = None) -> Fetched:
    """Bring one item; raises Failed. `progress` is told of every few bytes, from other threads."""
    destination = place_of(item.destination, settings)
    source = source_hash(item)
    there = recorded(destination)
    if there is not None and there.source == source:
        return Fetched(destination, there.digest, there.bytes, was_there=True)
    ca_file = settings.path(config.ca_file) if config.ca_file else None
    public_only = config.public_only and isinstance(item.source, UrlSource)
    transport = Transport(ca_file, public_only=public_only)
    errand = Errand(item, config, settings, transport)
    if progress is not None:
        errand = replace(errand, watch=progress, expect=partial(setattr, progress, "total"))
    try:
        with staged(destination, source) as staging:
            record = staging.found or bring(errand, staging)
    finally:
        transport.close()
    return Fetched(destination, record.digest, record.bytes, was_there=staging.found is not None)


def place_of(path: str, settings: Settings) -> Path:
    """Where the folder is to be on this machine, there already or not: below the root that stands for `/`, if any."""
    return settings.root / path.lstrip("/") if settings.root is not None else Path(path)


def source_hash(item: FetchItem) -> str:
    """A name for what is asked for: the same source gives the same name."""
    return hashlib.sha256(item.source.model_dump_json().encode()).hexdigest()


def bring(errand: Errand, staging: Staging) -> Record:
    """Fill the staging folder from whatever source, and finish it; raises Failed."""
    source = errand.item.source
    if isinstance(source, OciSource):
        return staging.finish(bring_oci(errand, source, staging))
    if isinstance(source, BucketSource):
        keys = buckets.keys_in([errand.settings.path(path) for path in errand.item.credentials])
        found = buckets.download(source, keys, errand.transport, staging, watch=errand.watch, expect=errand.expect)
        return staging.finish(found)
    if isinstance(source, HubSource):
        commit = hub.download(source, errand.transport, errand.settings, staging, errand.watch)
        return staging.finish(commit)
    download(source, errand.transport, staging.tree, errand.watch)
    return staging.finish(None)


def bring_oci(errand: Errand, source: OciSource, staging: Staging) -> str:
    """Pull an image's folder or an artifact; the digest of its manifest."""
    registry = registry_for(errand, reference_of(source.reference))
    registry.connect()
    content, digest = registry.resolve()
    errand.expect(sum(layer.blob.size for layer in content.layers))
    Pull(registry, source, staging, errand.watch).run(content)
    return digest


def reference_of(text: str) -> Reference:
    """The reference; raises Failed (InvalidSpec)."""
    try:
        return parse(text)
    except ValueError as error:
        raise Failed(REASON_INVALID_SPEC, str(error), "Write registry/name:tag, as `docker pull` takes it.") from None


def registry_for(errand: Errand, reference: Reference) -> Registry:
    """The registry to ask for the reference: its mirror, if it has one, and with the logins for where we really ask."""
    where = mirrored(reference, errand.config.registry_mirrors)
    files = [errand.settings.path(path) for path in errand.item.credentials]
    return Registry(errand.transport, where, logins(files, where))
