# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Adapters that are the results of tuning Workspaces: where each lies once its Workspace has succeeded.

An image is taken by its digest: what a later run pushes under the same tag is another result. An image that was served
once stays until there is a newer one, also when its Workspace tunes again, fails at that, or is gone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

from kaito.api.contracts import FETCH_CONFIG_KEY, FetchConfig, OciSource
from kaito.api.names import (
    MERGE_ANNOTATION,
    REASON_ADAPTER,
    REASON_INFERENCE_PENDING,
    WEIGHTS_IMAGE_ANNOTATION,
    WORKSPACE_SUCCEEDED,
)
from kaito.api.references import parse
from kaito.api.workspace import AdapterSource, AdapterSpec, TuningSpec
from kaito.catalog.models import ModelFacts
from kaito.kube.manifest import Manifest, annotations_of, condition_of
from kaito.operator.workspace.adapters import LoraAdapter
from kaito.operator.workspace.observe import Observed, Tuned
from kaito.operator.workspace.problem import Problem


def resolved(
    specs: tuple[AdapterSpec, ...], observed: Observed, model: ModelFacts
) -> tuple[AdapterSpec, ...] | Problem:
    """The adapters of a model with an image or a volume in place of each Workspace; or why one of them has none."""
    tuned = {one.name: one for one in observed.tuned}
    found: list[AdapterSpec] = []
    for index, spec in enumerate(specs):
        source = spec.source
        if source is None or source.workspace not in tuned or source.image or source.urls or source.volume_source:
            found.append(spec)
            continue
        place = _result(source, tuned[source.workspace], model)
        if isinstance(place, Problem):
            kept = _served(source, observed.serve_config)
            if kept is None:
                path = f"inference.adapters[{index}].source.workspace"
                return place if place.reason == REASON_INFERENCE_PENDING else _wrong(f"{path}: {place.message}")
            place = kept
        found.append(spec.model_copy(update={"source": place}))
    return tuple(found)


def _result(source: AdapterSource, tuned: Tuned, model: ModelFacts) -> AdapterSource | Problem:
    """Where the result is."""
    name, manifest = tuned.name, tuned.manifest
    if manifest is None:
        return _wrong(f"there is no Workspace {name}. Create it, or take the adapter out.")
    if tuned.workspace is None:
        return _wrong(f"Workspace {name} cannot be read. Correct it.")
    tuning = tuned.workspace.tuning
    if tuning is None:
        return _wrong(f"Workspace {name} tunes no model. Name one with tuning.")
    if tuning.method.lower() == "full":
        return _wrong(f"Workspace {name} tunes all weights: its result is a model and no adapter. Use lora or qlora.")
    if is_merged(manifest):
        step = f"Take its annotation {MERGE_ANNOTATION} out, or serve the model with {WEIGHTS_IMAGE_ANNOTATION}."
        return _wrong(f"Workspace {name} merges its adapter: its result is a model and no adapter. {step}")
    if isinstance(tuned.model, ModelFacts) and tuned.model.id != model.id:
        return _wrong(f"Workspace {name} tunes {tuned.model.id}, and this one serves {model.id}. Serve that one.")
    status = manifest.get("status") or {}
    state = status.get("state")
    if state == "Failed":
        said = (condition_of(manifest, WORKSPACE_SUCCEEDED) or {}).get("message", "")
        return _wrong(f"Workspace {name} has failed. {said}".rstrip())
    if state != "Succeeded":
        progress = (status.get("tuning") or {}).get("progress")
        how_far = f" ({progress})" if progress else ""
        return Problem(
            REASON_INFERENCE_PENDING, f"Waiting for Workspace {name}{how_far}: its result is adapter {source.called}."
        )
    return _place(source, tuning, status.get("tuning") or {})


def is_merged(workspace: Manifest) -> bool:
    """Whether a tuning's result is a whole model although it trains an adapter."""
    return str(annotations_of(workspace).get(MERGE_ANNOTATION, "")).strip().lower() == "true"


def _place(source: AdapterSource, tuning: TuningSpec, said: Manifest) -> AdapterSource | Problem:
    output = tuning.output
    if output.volume_source is not None:
        return AdapterSource(name=source.called, volume_source=output.volume_source)
    try:
        image = replace(parse(said.get("image") or output.image), tag=None, digest=said.get("digest") or None)
    except ValueError as error:
        return _wrong(str(error))
    secrets = source.image_pull_secrets or tuple(filter(None, (output.image_push_secret,)))
    return AdapterSource(name=source.called, image=str(image), image_pull_secrets=secrets)


def _served(source: AdapterSource, serve_config: Manifest | None) -> AdapterSource | None:
    """The image that is served under the adapter's name; None when there is none."""
    text = ((serve_config or {}).get("data") or {}).get(FETCH_CONFIG_KEY, "")
    try:
        items = FetchConfig.model_validate_json(text).items
    except ValueError:
        return None
    item = next((one for one in items if one.destination == LoraAdapter(source.called).path), None)
    if item is None or not isinstance(item.source, OciSource):
        return None
    secrets = tuple(PurePosixPath(path).name for path in item.credentials)
    return AdapterSource(name=source.called, image=item.source.reference, image_pull_secrets=secrets)


def _wrong(message: str) -> Problem:
    return Problem(REASON_ADAPTER, message)
