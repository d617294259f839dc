# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Weights from elsewhere than a hub, where a Workspace's annotations say so.

From a registry, where an image or an artifact holds the preset's files, or from a folder of an object store. They are
fetched into the folder where the runtime looks before it asks a hub, so an engine needs to know nothing of it. From the
node: an administrator has put them into
a folder that is named after the preset.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kaito.api import contracts, names
from kaito.api.buckets import parse as parse_uri
from kaito.api.contracts import BucketSource, OciSource
from kaito.api.references import parse
from kaito.api.workspace import Workspace
from kaito.catalog.models import ModelFacts
from kaito.operator import pods
from kaito.operator.pods import Mounted
from kaito.operator.workspace.fetching import Fetch

PLACES = (names.WEIGHTS_IMAGE_ANNOTATION, names.WEIGHTS_URI_ANNOTATION)
_SECRET = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a preset's weights are, and the Secrets that open it."""

    source: OciSource | BucketSource
    secrets: tuple[str, ...] = ()


def origin(workspace: Workspace) -> Origin | str | None:
    """What the annotations say: a place, None when the weights come from a hub or the node, or what is wrong with
    them."""
    annotations = workspace.annotations
    places = [name for name in PLACES if annotations.get(name, "").strip()]
    if node_folder(workspace):
        places.append(names.USE_LOCAL_WEIGHTS_ANNOTATION)
    if len(places) > 1:
        return f"The annotations {places[0]} and {places[1]} both say where the weights are: leave one of them out."
    return _bucket(annotations) if places == [names.WEIGHTS_URI_ANNOTATION] else _image(annotations)


def _bucket(annotations: Mapping[str, str]) -> Origin | str:
    uri = annotations[names.WEIGHTS_URI_ANNOTATION].strip()
    secret = annotations.get(names.WEIGHTS_URI_SECRET_ANNOTATION, "").strip()
    try:
        folder = parse_uri(uri)
    except ValueError as error:
        return f"The annotation {names.WEIGHTS_URI_ANNOTATION}: {error}"
    if secret and not _SECRET.fullmatch(secret):
        return f"The annotation {names.WEIGHTS_URI_SECRET_ANNOTATION} has {secret[:80]}: write the name of a Secret."
    return Origin(BucketSource(uri=str(folder)), (secret,) if secret else ())


def _image(annotations: Mapping[str, str]) -> Origin | str | None:
    reference = annotations.get(names.WEIGHTS_IMAGE_ANNOTATION, "").strip()
    if not reference:
        return None
    try:
        parse(reference)
    except ValueError as error:
        return f"The annotation {names.WEIGHTS_IMAGE_ANNOTATION}: {error} Write registry/name:tag."
    listed = annotations.get(names.WEIGHTS_SECRETS_ANNOTATION, "").split(",")
    secrets = tuple(dict.fromkeys(filter(None, (secret.strip() for secret in listed))))
    wrong = next((secret for secret in secrets if not _SECRET.fullmatch(secret)), None)
    if wrong is not None:
        return (
            f"The annotation {names.WEIGHTS_SECRETS_ANNOTATION} has {wrong[:80]}: write names of Secrets, with commas."
        )
    return Origin(OciSource(reference=reference), secrets)


def node_folder(workspace: Workspace) -> str:
    """The folder on the node that holds the preset's weights; empty where they come from elsewhere."""
    if workspace.preset is None or workspace.annotations.get(names.USE_LOCAL_WEIGHTS_ANNOTATION) != "true":
        return ""
    return f"{contracts.NODE_WEIGHTS}/{workspace.preset.name.lower().replace('/', '-')}"


def node_mount(folder: str) -> tuple[Mounted, ...]:
    """The node's folder in the pod, under the same path; nothing where there is none."""
    return (pods.host_path("model-weights-hostpath", folder, folder),) if folder else ()


def fetches(weights: Origin | None, model: ModelFacts) -> tuple[Fetch, ...]:
    """The weights as one thing to fetch, laid out by the model's id; nothing without a place."""
    if weights is None:
        return ()
    destination = f"{contracts.WEIGHTS_MOUNT}/{model.id}"
    return (Fetch(f"weights of {model.id}", weights.source, destination, weights.secrets),)
