# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which Workspaces are admitted: the rules that span fields, as pure functions over the models.

What a single field may hold is in the schema (`kaito.api.crd`); how names and addresses are written in
`kaito.api.syntax`. Nothing is read from a cluster or a network here: what the rules need to know of the world comes in
as a `Policy`. Which changes an update may make is in `kaito.api.changes`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from kaito.api import datasets, names, syntax
from kaito.api.meta import FieldError, LabelSelector, LabelSelectorRequirement
from kaito.api.workspace import (
    AdapterSource,
    AdapterSpec,
    DataDestination,
    DataSource,
    InferenceSpec,
    PartitionSpec,
    PresetSpec,
    ResourceSpec,
    TuningSpec,
    Workspace,
)

MAX_ADAPTERS: Final = 10
IMAGE_FAMILIES: Final = ("azurelinux", "ubuntu")
PERFORMANCE_MODES: Final = ("balanced", "interactivity", "throughput")
OUTPUT_FORMATS: Final = ("image", "artifact")
BENCHMARKS: Final = ("light", "full")
TUNING_METHODS: Final = ("lora", "qlora", "full")
ONE_NODE_VOLUMES: Final = frozenset({"awsElasticBlockStore", "azureDisk", "cinder", "gcePersistentDisk"})
"""Volumes that one node at a time can have."""
_MIG_PROFILE = re.compile(r"\d+g\.\d+gb(\+[a-z.]+)?")

Errors = Iterator[FieldError]


def _anything(_: str) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Policy:
    """What the rules need to know of where they apply."""

    preset_problem: syntax.Check = _anything
    """Says why no preset can have a name (`kaito.catalog.models.Catalogue.problem`), or None."""
    instance_type: Literal["optional", "required", "forbidden"] = "optional"
    """Whether nodes are made by the type that the user names: `required` where a cloud makes them, `forbidden` where
    users bring their own."""
    instance_type_problem: syntax.Check = _anything
    """Says why a machine type cannot be had, or None."""
    private_urls: bool = False
    """Data may come from loopback and private addresses: true on a machine of one's own."""


def create_errors(workspace: Workspace, policy: Policy) -> tuple[FieldError, ...]:
    """What is wrong with a new Workspace; empty when it is admitted."""
    return tuple(_errors(workspace, policy))


def _errors(workspace: Workspace, policy: Policy) -> Errors:
    yield from _metadata_errors(workspace)
    yield from _annotation_errors(workspace)
    if workspace.inference is None and workspace.tuning is None:
        yield FieldError("inference", None, "is required, unless tuning is given: a Workspace has exactly one of them")
    if workspace.inference is not None and workspace.tuning is not None:
        both = {"inference": workspace.inference, "tuning": workspace.tuning}
        yield FieldError("tuning", both, "must not be given together with inference: write a Workspace for each")
    yield from _resource_errors(workspace.resource, policy, is_tuning=workspace.tuning is not None)
    if workspace.inference is not None:
        yield from _inference_errors(workspace.inference, policy)
    if workspace.tuning is not None:
        yield from _tuning_errors(workspace.tuning, policy)
        yield from _shared_output_errors(workspace.tuning.output, workspace.resource)


def _metadata_errors(workspace: Workspace) -> Errors:
    # With generateName the server has yet to make the name up.
    if workspace.name or not workspace.metadata.get("generateName"):
        yield from _checked("metadata.name", workspace.name, syntax.dns_label)


def _annotation_errors(workspace: Workspace) -> Errors:
    annotations = workspace.annotations
    family = annotations.get(names.NODE_IMAGE_FAMILY_ANNOTATION)
    if family is not None and family.strip().lower() not in IMAGE_FAMILIES:
        yield _annotation_error(names.NODE_IMAGE_FAMILY_ANNOTATION, family, IMAGE_FAMILIES)
    for annotation, allowed in (
        (names.PERFORMANCE_MODE_ANNOTATION, PERFORMANCE_MODES),
        (names.USE_LOCAL_WEIGHTS_ANNOTATION, ("true", "false")),
        (names.BENCHMARK_ANNOTATION, BENCHMARKS),
        (names.OUTPUT_FORMAT_ANNOTATION, OUTPUT_FORMATS),
        (names.CHECKPOINTS_ANNOTATION, ("true", "false")),
    ):
        value = annotations.get(annotation)
        if value is not None and value not in allowed:
            yield _annotation_error(annotation, value, allowed)


def _annotation_error(annotation: str, value: str, allowed: tuple[str, ...]) -> FieldError:
    return FieldError(f"metadata.annotations[{annotation}]", value, f"must be {_one_of(allowed)}")


def _resource_errors(resource: ResourceSpec | None, policy: Policy, *, is_tuning: bool) -> Errors:
    instance_type = resource.instance_type if resource else ""
    path = "resource.instanceType"
    if policy.instance_type == "required" and not instance_type:
        yield FieldError(path, None, "is required: name the cloud's machine type to create nodes of")
    elif policy.instance_type == "forbidden" and instance_type:
        message = "must be empty where nodes are brought, not created: select them by resource.labelSelector"
        yield FieldError(path, instance_type, message)
    elif instance_type:
        yield from _checked(path, instance_type, policy.instance_type_problem)
    if resource is None:
        return
    if resource.count < 1:
        yield FieldError("resource.count", resource.count, "must be at least 1")
    if resource.partition is not None:
        yield from _partition_errors(resource.partition, is_tuning=is_tuning)
    yield from _selector_errors(resource.label_selector)


def _partition_errors(partition: PartitionSpec, *, is_tuning: bool) -> Errors:
    path = "resource.partition"
    if is_tuning:
        yield FieldError(path, partition, "must not be given: tuning takes whole GPUs")
    if partition.mode == "mig":
        if partition.count is not None:
            yield FieldError(f"{path}.count", partition.count, "must not be given with mode mig, which takes one slice")
        if not _MIG_PROFILE.fullmatch(partition.profile):
            message = "must name the slice with mode mig, e.g. 3g.40gb"
            yield FieldError(f"{path}.profile", partition.profile or None, message)
    else:
        if partition.profile:
            yield FieldError(f"{path}.profile", partition.profile, "must not be given with mode accelerator")
        if partition.count is None:
            yield FieldError(
                f"{path}.count", None, "is required with mode accelerator: how many GPUs of the node to use"
            )


def _selector_errors(selector: LabelSelector) -> Errors:
    path = "resource.labelSelector"
    for key, value in selector.match_labels.items():
        yield from _checked(f"{path}.matchLabels[{key}]", key, syntax.label_key)
        yield from _checked(f"{path}.matchLabels[{key}]", value, syntax.label_value)
    for index, term in enumerate(selector.match_expressions):
        yield from _term_errors(f"{path}.matchExpressions[{index}]", term)
    labels = selector.match_labels
    if labels and names.RESERVED_SELECTOR_KEYS.issuperset(labels) and not selector.match_expressions:
        message = "needs at least one label besides those that are reserved for our own use, which select nothing"
        yield FieldError(f"{path}.matchLabels", labels, message)


def _term_errors(path: str, term: LabelSelectorRequirement) -> Errors:
    yield from _checked(f"{path}.key", term.key, syntax.label_key)
    if term.operator in ("In", "NotIn"):
        if not term.values:
            yield FieldError(f"{path}.values", None, f"is required with {term.operator}: give at least one value")
        for index, value in enumerate(term.values):
            yield from _checked(f"{path}.values[{index}]", value, syntax.label_value)
    elif term.operator in ("Exists", "DoesNotExist"):
        if term.values:
            yield FieldError(f"{path}.values", term.values, f"must not be given with {term.operator}")
    else:
        yield FieldError(f"{path}.operator", term.operator, "must be In, NotIn, Exists or DoesNotExist")


def _inference_errors(inference: InferenceSpec, policy: Policy) -> Errors:
    if inference.preset is None and inference.template is None:
        yield FieldError("inference.preset", None, "is required, unless inference.template is given")
    if inference.preset is not None and inference.template is not None:
        message = "must not be given together with inference.preset: choose one"
        yield FieldError("inference.template", (inference.preset, inference.template), message)
    if inference.preset is not None:
        yield from _preset_errors("inference.preset", inference.preset, policy)
    yield from _optional("inference.config", inference.config, syntax.dns_subdomain)
    yield from _adapters_errors(inference.adapters, policy)


def _preset_errors(path: str, preset: PresetSpec, policy: Policy) -> Errors:
    if not preset.name:
        yield FieldError(f"{path}.name", None, "is required: name a preset, or a Hugging Face model as org/model")
        return
    yield from _checked(f"{path}.name", preset.name, policy.preset_problem)
    secret = preset.preset_options.model_access_secret if preset.preset_options else ""
    yield from _optional(f"{path}.presetOptions.modelAccessSecret", secret, syntax.dns_subdomain)


def _adapters_errors(adapters: tuple[AdapterSpec, ...], policy: Policy) -> Errors:
    path = "inference.adapters"
    if len(adapters) > MAX_ADAPTERS:
        yield FieldError(path, adapters, f"must be at most {MAX_ADAPTERS}, and there are {len(adapters)}")
    for index, adapter in enumerate(adapters):
        yield from _adapter_errors(f"{path}[{index}]", adapter, policy)
    counts = Counter(adapter.source.called for adapter in adapters if adapter.source and adapter.source.called)
    for name, count in counts.items():
        if count > 1:
            yield FieldError(path, name, f"must have names of their own, and {count} of them are called {name!r}")


def _adapter_errors(path: str, adapter: AdapterSpec, policy: Policy) -> Errors:
    if adapter.strength is not None:
        yield from _checked(f"{path}.strength", adapter.strength, syntax.strength)
    source = adapter.source
    if source is None:
        yield FieldError(f"{path}.source", None, "is required: give an image, a volumeSource, urls or a workspace")
        return
    if source.name:
        yield from _checked(f"{path}.source.name", source.name, syntax.dns_subdomain)
    elif not source.workspace:
        yield FieldError(f"{path}.source.name", None, "is required: requests ask for the adapter by it")
    yield from _url_errors(f"{path}.source.urls", source.urls, policy)
    yield from _optional(f"{path}.source.workspace", source.workspace, syntax.dns_subdomain)
    yield from _source_errors(f"{path}.source", source, ("image", "volumeSource", "urls", "workspace"))


def _source_errors(path: str, source: DataSource | DataDestination, allowed: tuple[str, ...]) -> Errors:
    given = [name for name, value in _places(source).items() if value]
    if not given:
        yield FieldError(path, None, f"needs {_one_of(allowed)}")
    elif len(given) > 1:
        yield FieldError(path, source, f"must have only one of {', '.join(given)}")
    yield from _optional(f"{path}.image", source.image, syntax.image)


def _places(source: DataSource | DataDestination) -> dict[str, object]:
    places: dict[str, object] = {"image": source.image, "volumeSource": source.volume_source}
    if isinstance(source, DataSource):
        places = {"urls": source.urls, **places}
    return {**places, "workspace": source.workspace} if isinstance(source, AdapterSource) else places


def _tuning_errors(tuning: TuningSpec, policy: Policy) -> Errors:
    if tuning.preset is None:
        yield FieldError("tuning.preset", None, "is required: the model to tune")
    else:
        yield from _preset_errors("tuning.preset", tuning.preset, policy)
    if tuning.method.lower() not in TUNING_METHODS:
        yield FieldError("tuning.method", tuning.method or None, f"must be {_one_of(TUNING_METHODS)}")
    yield from _optional("tuning.config", tuning.config, syntax.dns_subdomain)
    yield from _source_errors("tuning.input", tuning.input, ("urls", "image", "volumeSource"))
    yield from _data_errors("tuning.input.urls", tuning.input.urls, policy)
    yield from _output_errors(tuning.output)


def _data_errors(path: str, urls: tuple[str, ...], policy: Policy) -> Errors:
    for index, url in enumerate(urls):
        if not datasets.is_dataset(url):
            yield from _url_error(f"{path}[{index}]", url, policy)
        elif message := datasets.problem(url):
            yield FieldError(f"{path}[{index}]", url, message)


def _url_errors(path: str, urls: tuple[str, ...], policy: Policy) -> Errors:
    for index, url in enumerate(urls):
        yield from _url_error(f"{path}[{index}]", url, policy)


def _url_error(path: str, url: str, policy: Policy) -> Errors:
    message = None if policy.private_urls else syntax.public_url(url)
    if message is not None:
        yield FieldError(path, syntax.shown_url(url), message)


def _output_errors(output: DataDestination) -> Errors:
    yield from _source_errors("tuning.output", output, ("image", "volumeSource"))
    path = "tuning.output.imagePushSecret"
    if output.image and not output.image_push_secret:
        yield FieldError(path, None, "is required with an image: the Secret to push it with")


def _shared_output_errors(output: DataDestination, resource: ResourceSpec | None) -> Errors:
    """A volume that every one of several pods has to mount."""
    if output.volume_source is None or resource is None or resource.count < 2:
        return
    for kind in output.volume_source:
        if kind in ONE_NODE_VOLUMES:
            message = (
                f"must not be {kind} with resource.count {resource.count}: each node's pod mounts the output, and such "
                "a volume is for one. Use a persistentVolumeClaim with ReadWriteMany, or tuning.output.image"
            )
            yield FieldError("tuning.output.volumeSource", kind, message)


def _checked(path: str, text: str, check: Callable[[str], str | None]) -> Errors:
    message = check(text)
    if message is not None:
        yield FieldError(path, text, message)


def _optional(path: str, text: str, check: Callable[[str], str | None]) -> Errors:
    if text:
        yield from _checked(path, text, check)


def _one_of(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
