# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a Workspace asks for, once it is known to make sense: or the one problem that keeps us from doing it.

Admission (`kaito.api.rules`) refuses most of this before it is stored. It may be switched off, and what it needs (a
ConfigMap, a model) may change later, so the plan judges for itself and never trusts it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from kaito.api import datasets, names
from kaito.api.contracts import (
    SERVE_CONFIG_KEY,
    TRAINING_CONFIG_KEY,
    USER_CONFIG_KEY,
    Engine,
    ResultFormat,
    ServeConfig,
    TuningMethod,
)
from kaito.api.training import DEFAULTS, BadTraining, check_method, parse_options
from kaito.api.workspace import DataDestination, DataSource, InferenceSpec, TuningSpec, Workspace
from kaito.catalog.engine_options import file_problem, size_of
from kaito.catalog.models import ModelFacts
from kaito.kube.manifest import Manifest
from kaito.operator.workspace.adapters import LoraAdapter, lora_adapters
from kaito.operator.workspace.observe import FactsPending, Observed, UnknownPreset
from kaito.operator.workspace.problem import Problem
from kaito.operator.workspace.results import resolved
from kaito.operator.workspace.weights import Origin, node_folder, origin

MAX_NAME = 52
"""A StatefulSet's name and an 11-character hash make a label value, which Kubernetes limits to 63."""
FORMATS: dict[str, ResultFormat] = {"image": "image", "artifact": "artifact"}
METHODS: tuple[TuningMethod, ...] = ("lora", "qlora", "full")
_TAINT = re.compile(
    r"(?P<key>([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)"
    r"(=(?P<value>([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?))?(:(?P<effect>NoSchedule|PreferNoSchedule|NoExecute))?"
)
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Tuning:
    """A fine-tuning that makes sense."""

    method: TuningMethod
    input: DataSource
    output: DataDestination
    config: str
    """The training configuration: the user's, or the method's default."""
    config_map: str
    """The ConfigMap that it is in; empty for the default."""
    output_dir: str
    format: ResultFormat = "image"
    """What is pushed where the output is an image."""
    keeps_checkpoints: bool = False
    """Whether checkpoints go into the registry while it trains."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A servable Workspace: a model or a template, and what goes with it."""

    workspace: Workspace
    engine: Engine
    model: ModelFacts | None = None
    template: Manifest | None = None
    adapters: tuple[LoraAdapter, ...] = ()
    tolerations: tuple[Manifest, ...] = ()
    """Taints that the pods accept because the user says so."""
    weights: Origin | None = None
    """Where the weights are, when it is a registry or an object store."""
    weights_folder: str = ""
    """Where the weights are, when it is a folder of the node."""
    token_secret: str = ""
    """The Secret with the Hugging Face token; empty without one."""
    tuning: Tuning | None = None
    """Set where the model is tuned, not served."""


@dataclass(frozen=True, slots=True)
class UserConfig:
    """The user's ConfigMap: its text, and the one value in it that sizing needs."""

    name: str
    text: str
    max_model_len: int | None = None


def wanted(observed: Observed, default_engine: Engine) -> Wanted | Problem:
    """What is to be served, or why it cannot be."""
    workspace = observed.workspace
    if workspace is None:
        return _invalid(f"The Workspace cannot be read: {observed.unreadable}. Correct the fields and apply it again.")
    unsuited = _unsuited_name(workspace.name)
    if unsuited:
        return _invalid(unsuited)
    if (workspace.inference is None) == (workspace.tuning is None):
        given = "both inference and tuning" if workspace.inference else "neither inference nor tuning"
        return _invalid(f"The Workspace has {given}: give exactly one of them.")
    if workspace.tuning is not None:
        if workspace.resource is not None and workspace.resource.partition is not None:
            return _invalid("resource.partition must not be given: tuning takes whole GPUs. Leave it out.")
        return _tuning(observed, workspace, workspace.tuning)
    return _inference(observed, workspace, workspace.inference or InferenceSpec(), default_engine)


def _unsuited_name(name: str) -> str:
    if len(name) > MAX_NAME:
        return f"metadata.name is {len(name)} characters long: use at most {MAX_NAME}, its pods' labels hold no more."
    if not _NAME.fullmatch(name):
        return f"metadata.name {name} cannot name a Service: use a-z, 0-9 and -, beginning with a letter."
    return ""


def _inference(
    observed: Observed, workspace: Workspace, inference: InferenceSpec, default_engine: Engine
) -> Wanted | Problem:
    if (inference.preset is None) == (inference.template is None):
        given = "both inference.preset and inference.template" if inference.preset else "no inference.preset"
        return _invalid(f"The Workspace has {given}: give a preset or a template.")
    tolerations = _tolerations(workspace.annotations.get(names.TOLERATIONS_ANNOTATION, ""))
    if isinstance(tolerations, Problem):
        return tolerations
    if inference.template is not None:
        if not (inference.template.get("spec") or {}).get("containers"):
            return _invalid("inference.template has no containers: give spec.containers, as in a pod.")
        return Wanted(workspace, default_engine, template=inference.template, tolerations=tolerations)
    options = inference.preset.preset_options if inference.preset else None
    secret = options.model_access_secret if options else ""
    model = observed.model
    if isinstance(model, FactsPending):
        return Problem(names.REASON_INFERENCE_PENDING, model.message)
    if isinstance(model, UnknownPreset) and model.may_be_private and secret and inference.preset:
        model = ModelFacts(id=inference.preset.name)
    if not isinstance(model, ModelFacts):
        said = model.message if isinstance(model, UnknownPreset) else "The preset is not known."
        return Problem(names.REASON_UNKNOWN_PRESET, said)
    model = _as_it_runs(model, observed)
    engine = _engine(workspace, model, default_engine)
    if engine is None:
        return _invalid(
            f"{model.id} cannot be served by {workspace.runtime()}: "
            f"set the annotation {names.RUNTIME_ANNOTATION} to {' or '.join(model.runtimes)}, or leave it out."
        )
    specs = resolved(inference.adapters, observed, model)
    if isinstance(specs, Problem):
        return specs
    adapters = lora_adapters(specs)
    if isinstance(adapters, str):
        return _invalid(adapters)
    weights = origin(workspace)
    if isinstance(weights, str):
        return _invalid(weights)
    return Wanted(
        workspace,
        engine,
        model=model,
        adapters=adapters,
        weights=weights,
        weights_folder=node_folder(workspace),
        tolerations=tolerations,
        token_secret=secret,
    )


def _tuning(observed: Observed, workspace: Workspace, spec: TuningSpec) -> Wanted | Problem:
    model = observed.model
    if spec.preset is None:
        return _invalid("The Workspace has no tuning.preset: name the model to tune.")
    if isinstance(model, FactsPending):
        return Problem(names.REASON_INFERENCE_PENDING, model.message)
    if not isinstance(model, ModelFacts):
        said = model.message if isinstance(model, UnknownPreset) else "The preset is not known."
        return Problem(names.REASON_UNKNOWN_PRESET, said)
    untunable = _untunable(model)
    if untunable:
        return Problem(names.REASON_TUNING_MODEL, untunable)
    method = get_method(spec.method)
    if method is None:
        return _invalid(f"tuning.method is {spec.method or 'missing'}: write {', '.join(METHODS)}.")
    tolerations = _tolerations(workspace.annotations.get(names.TOLERATIONS_ANNOTATION, ""))
    if isinstance(tolerations, Problem):
        return tolerations
    ends = _ends(spec)
    tuning = ends or _training(observed, workspace, spec, method)
    if isinstance(tuning, Problem):
        return tuning
    options = spec.preset.preset_options
    return Wanted(
        workspace,
        "transformers",
        model=model,
        weights_folder=node_folder(workspace),
        tolerations=tolerations,
        token_secret=options.model_access_secret if options else "",
        tuning=tuning,
    )


def _untunable(model: ModelFacts) -> str:
    """Why no adapter can be trained on the model, as far as it is known beforehand."""
    if model.quantization:
        return f"{model.id} cannot be tuned: its weights are compressed ({model.quantization}). Choose its base model."
    if model.format == "mistral" and model.transformers is None:
        return f"{model.id} cannot be tuned: its files are not laid out as transformers reads them. Choose another."
    return ""


def get_method(text: str) -> TuningMethod | None:
    """The tuning method of that name."""
    return next((method for method in METHODS if method == text.lower()), None)


def _ends(spec: TuningSpec) -> Problem | None:
    """Whether the data come from one place, and the result goes to one."""
    given = [bool(spec.input.urls), bool(spec.input.image), spec.input.volume_source is not None]
    if sum(given) != 1:
        return _invalid("tuning.input needs exactly one of urls, image and volumeSource.")
    for index, url in enumerate(spec.input.urls):
        wrong = datasets.problem(url) if datasets.is_dataset(url) else None
        if wrong is not None:
            return _invalid(f"tuning.input.urls[{index}] {wrong}.")
    if bool(spec.output.image) == (spec.output.volume_source is not None):
        return _invalid("tuning.output needs exactly one of image and volumeSource.")
    return None


def _training(observed: Observed, workspace: Workspace, spec: TuningSpec, method: TuningMethod) -> Tuning | Problem:
    text = DEFAULTS[method]
    if spec.config:
        if observed.user_config is None:
            return _bad_training(
                f"ConfigMap {spec.config} does not exist in namespace {workspace.namespace}: "
                f"create it with the key {TRAINING_CONFIG_KEY}, or take tuning.config out."
            )
        given = (observed.user_config.get("data") or {}).get(TRAINING_CONFIG_KEY)
        if given is None:
            return _bad_training(f"ConfigMap {spec.config} has no key {TRAINING_CONFIG_KEY}: put the settings there.")
        text = given
    try:
        options = parse_options(text)
        check_method(method, options)
        output_dir = options.output_dir
    except BadTraining as error:
        return _bad_training(f"{error} Correct ConfigMap {spec.config}.")
    format_, keeps = workspace.annotations.get(names.OUTPUT_FORMAT_ANNOTATION, "image"), _keeps(workspace, method)
    if format_ not in FORMATS or keeps is None:
        return _invalid(
            f"The annotation {names.OUTPUT_FORMAT_ANNOTATION} must be {' or '.join(FORMATS)}, "
            f"and {names.CHECKPOINTS_ANNOTATION} true or false."
        )
    return Tuning(
        method,
        spec.input,
        spec.output,
        text,
        spec.config,
        output_dir,
        format=FORMATS[format_],
        keeps_checkpoints=keeps and bool(spec.output.image),
    )


def _keeps(workspace: Workspace, method: TuningMethod) -> bool | None:
    """Whether checkpoints go into the registry; None where the annotation makes no sense.

    By default those of adapters do. All weights with their optimizer are many times as much as the result.
    """
    default = "false" if method == "full" else "true"
    return {"true": True, "false": False}.get(workspace.annotations.get(names.CHECKPOINTS_ANNOTATION, default))


def _bad_training(message: str) -> Problem:
    return Problem(names.REASON_TUNING_CONFIG, message)


def _as_it_runs(model: ModelFacts, observed: Observed) -> ModelFacts:
    """A model of a hub stays at the commit that it was first served at: a newer one there must not roll the pods."""
    if model.is_known and model.reviewed:
        return model
    text = ((observed.serve_config or {}).get("data") or {}).get(SERVE_CONFIG_KEY, "")
    try:
        running = ServeConfig.model_validate_json(text).model
    except ValueError:
        return model
    if running.id != model.id or running.revision is None:
        return model
    return model.model_copy(update={"revision": running.revision})


def _tolerations(text: str) -> tuple[Manifest, ...] | Problem:
    """The tolerations of an annotation: `key`, `key:Effect`, `key=value` or `key=value:Effect`, commas between."""
    found: list[Manifest] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _TAINT.fullmatch(part)
        if match is None:
            return _invalid(
                f"The annotation {names.TOLERATIONS_ANNOTATION} has {part[:80]}: write taints as key=value:NoSchedule, "
                "with commas between."
            )
        value = {"operator": "Exists"} if match["value"] is None else {"operator": "Equal", "value": match["value"]}
        effect = {"effect": match["effect"]} if match["effect"] else {}
        found.append({"key": match["key"], **value, **effect})
    return tuple(found)


def _engine(workspace: Workspace, model: ModelFacts, default: Engine) -> Engine | None:
    """The engine that the Workspace asks for, None if it cannot serve the model; else the default, or one that can."""
    if names.RUNTIME_ANNOTATION in workspace.annotations:
        asked = workspace.runtime()
        return asked if asked in model.runtimes else None
    return default if default in model.runtimes else model.runtimes[0]


def user_config(observed: Observed, engine: Engine) -> UserConfig | Problem | None:
    """The user's ConfigMap, None when the Workspace names none, or why it cannot be used."""
    workspace = observed.workspace
    name = workspace.inference.config if workspace and workspace.inference else ""
    if not name or workspace is None:
        return None
    if observed.user_config is None:
        return _config(
            f"ConfigMap {name} does not exist in namespace {workspace.namespace}: "
            f"create it with the key {USER_CONFIG_KEY}, or take inference.config out."
        )
    text = (observed.user_config.get("data") or {}).get(USER_CONFIG_KEY)
    if text is None:
        return _config(f"ConfigMap {name} has no key {USER_CONFIG_KEY}: put the engine's settings there.")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return _config(f"Key {USER_CONFIG_KEY} of ConfigMap {name} is not YAML: {_where(error)}. Correct it.")
    if content is not None and not isinstance(content, dict):
        return _config(f"Key {USER_CONFIG_KEY} of ConfigMap {name} is not a map: begin it with vllm: and its settings.")
    problem = file_problem(content or {}, engine)
    if problem is not None:
        return _config(f"Key {USER_CONFIG_KEY} of ConfigMap {name}: {problem} Correct it.")
    return UserConfig(name, text, _max_model_len((content or {}).get(engine) or {}))


def _where(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} in line {error.problem_mark.line + 1}"
    return "it cannot be parsed"


def _max_model_len(settings: dict[Any, Any]) -> int | None:
    length = settings.get("max-model-len", settings.get("max_model_len"))
    return size_of(length)


def _invalid(message: str) -> Problem:
    return Problem(names.REASON_INVALID_SPEC, message)


def _config(message: str) -> Problem:
    return Problem(names.REASON_CONFIG_INVALID, message)
