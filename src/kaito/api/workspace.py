# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The Workspace, what a user writes and what we report back, as frozen models (v1beta1, the version we work with).

A Workspace has no `spec`: `resource`, `inference`, `tuning` and `status` stand at its root. The docstrings under the
fields are the user manual; the CustomResourceDefinition is generated from them (`kaito.api.crd`). What Kubernetes owns
(metadata, pod templates, volume sources) stays a plain dict. Rules that span fields are in `kaito.api.rules`.
"""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import Field, StrictInt, ValidationError
from pydantic.config import JsonDict

from kaito.api.meta import WORKSPACES, ApiModel, Condition, FieldError, InvalidObject, LabelSelector, field_errors
from kaito.api.names import RESERVED_SELECTOR_KEYS, RUNTIME_ANNOTATION
from kaito.api.versions import UnservedVersion, to_v1beta1
from kaito.kube.manifest import Key, Manifest

OPEN: Final[JsonDict] = {"x-kubernetes-preserve-unknown-fields": True}
"""Schema of a field whose content Kubernetes defines and whose unknown parts we keep."""


class PartitionSpec(ApiModel):
    """A part of a node's GPUs instead of whole ones."""

    mode: Literal["mig", "accelerator"]
    """How the GPUs are divided: `mig` takes one hardware slice of a GPU, `accelerator` some of the node's GPUs."""
    profile: str = ""
    """With mode mig: the slice, e.g. `3g.40gb`."""
    count: StrictInt | None = Field(default=None, ge=1)
    """With mode accelerator: how many GPUs of the node to use."""


class ResourceSpec(ApiModel):
    """The machines that the workload runs on."""

    count: StrictInt = 1
    """How many nodes to use where it cannot be computed from the model. Deprecated: the number of nodes follows from
    the model and the GPU."""
    instance_type: str = ""
    """The machine type of the nodes, by the name the cloud knows it by, e.g. `Standard_NC24ads_A100_v4`. Leave it out
    to bring your own nodes."""
    label_selector: LabelSelector = Field(json_schema_extra={"x-kubernetes-map-type": "atomic"})
    """The labels of the nodes to use; nodes that are created get them."""
    preferred_nodes: tuple[str, ...] = ()
    """Names of nodes to prefer. Deprecated and without effect: select nodes by their labels."""
    partition: PartitionSpec | None = None
    """Use a part of each node's GPUs."""

    def node_labels(self) -> dict[str, str]:
        """The matchLabels that select nodes: the user's without the keys that are reserved for our own bookkeeping."""
        labels = self.label_selector.match_labels
        return {key: value for key, value in labels.items() if key not in RESERVED_SELECTOR_KEYS}


class PresetOptions(ApiModel):
    """How to get at a preset's files."""

    image: str = ""
    """An image that holds the model. Deprecated and without effect: weights are fetched by model id."""
    image_pull_secrets: tuple[str, ...] = ()
    """Secrets to pull that image with. Deprecated and without effect."""
    model_access_secret: str = ""
    """The name of a Secret in the same namespace whose key HF_TOKEN is the Hugging Face token to download with: the
    model and, of a tuning, the data."""


class PresetSpec(ApiModel):
    """A model that is known by name."""

    name: str
    """The preset: a name of the catalogue such as `phi-4-mini-instruct`, or any Hugging Face id `org/model`."""
    access_mode: Literal["public", "private"] = "public"
    """Whether the model's image is public. Deprecated and without effect."""
    preset_options: PresetOptions | None = None
    """How to get at the model's files."""


class DataSource(ApiModel):
    """Where files come from: exactly one of urls, volumeSource and image."""

    name: str = ""
    """A name for the files: an adapter is asked for by it in a request's `model`."""
    urls: tuple[str, ...] = ()
    """HTTP(S) addresses to download from. One may end in `#sha256=` and what the file must hash to, in hex. In
    `tuning.input`, data sets of a Hugging Face hub too: `hf://datasets/org/name`, and `@` with a commit behind it."""
    volume_source: dict[str, Any] | None = Field(default=None, json_schema_extra=OPEN)
    """A volume, as in a pod's `volumes`, that holds the files."""
    image: str = ""
    """A container image whose folder `/data` holds the files."""
    image_pull_secrets: tuple[str, ...] = ()
    """Secrets in the same namespace to pull the image with."""


class DataDestination(ApiModel):
    """Where a result is put: exactly one of volumeSource and image."""

    volume_source: dict[str, Any] | None = Field(default=None, json_schema_extra=OPEN)
    """A volume, as in a pod's `volumes`, to write the result to."""
    image: str = ""
    """The container image to push the result as; needs `imagePushSecret`."""
    image_push_secret: str = ""
    """The Secret in the same namespace to push the image with."""


class AdapterSource(DataSource):
    """Where an adapter comes from: exactly one of image, volumeSource, urls and workspace."""

    workspace: str = ""
    """A Workspace in the same namespace that tunes the model: its result is the adapter, once it has succeeded. Its
    name is the adapter's, if there is no other."""

    @property
    def called(self) -> str:
        """What requests ask for it by."""
        return self.name or self.workspace


class AdapterSpec(ApiModel):
    """A LoRA adapter that is loaded beside the model."""

    source: AdapterSource | None = None
    """Where the adapter's files come from: an image, a volume, URLs, or a Workspace that tunes."""
    strength: str | None = None
    """How much the adapter counts, a decimal from 0 to 1 in quotes, e.g. "0.5"; 1 when left out."""


class InferenceSpec(ApiModel):
    """A model to serve: exactly one of preset and template."""

    preset: PresetSpec | None = None
    """The model, by name."""
    template: dict[str, Any] | None = Field(default=None, json_schema_extra=OPEN)
    """A pod template to run instead of a preset."""
    config: str = ""
    """The name of a ConfigMap in the same namespace whose key `inference_config.yaml` holds settings of the engine."""
    adapters: tuple[AdapterSpec, ...] = ()
    """LoRA adapters to load, at most ten."""


class TuningSpec(ApiModel):
    """A fine-tuning job."""

    preset: PresetSpec | None = None
    """The model to tune, by name."""
    method: str = ""
    """How to tune: `lora`, `qlora`, or `full` for all of the model's weights."""
    config: str = ""
    """The name of a ConfigMap in the same namespace whose key `training_config.yaml` holds settings of the training."""
    input: DataSource
    """The data to tune on."""
    output: DataDestination
    """Where to put the adapter that comes out."""


class Metric(ApiModel):
    """One measured figure."""

    description: str
    """What was measured."""
    value: str
    """The figure."""
    unit: str = ""
    """What the figure counts, e.g. tokens/min."""
    config: dict[str, str] = Field(default_factory=dict)
    """The circumstances under which it was measured."""


class PerformanceStatus(ApiModel):
    """What the model server found when it measured itself."""

    metrics: dict[str, Metric] = Field(default_factory=dict)
    """The figures, by name."""


class FailureStatus(ApiModel):
    """Why the Workspace does not do what it is for."""

    reason: str
    """The fault in a word for programs; docs/failures.md lists all."""
    evidence: str
    """What was seen, in the words of whoever said it."""
    next_step: str = ""
    """What to do about it."""
    since: str = Field(json_schema_extra={"format": "date-time"})
    """When it was first seen."""


class TuningStatus(ApiModel):
    """How far a fine-tuning is, and what came of it."""

    phase: str = ""
    """What is being done: Starting, Fetching, Checking, Preparing, Training, Saving, Pushing or Done."""
    progress: str = ""
    """How far the training is, e.g. 120/1500 (8%)."""
    step: StrictInt | None = Field(default=None, json_schema_extra={"format": "int64"})
    """The steps that were trained."""
    total_steps: StrictInt | None = Field(default=None, json_schema_extra={"format": "int64"})
    """The steps that there are to train."""
    epoch: str = ""
    """How often the data were gone through."""
    loss: str = ""
    """The loss of the last logged step."""
    eval_loss: str = ""
    """The last loss on what is held back to evaluate with."""
    tokens_per_second: str = ""
    """How fast it trains."""
    eta: str = ""
    """How much longer the training will take, e.g. 1h05m."""
    gpu_memory: str = ""
    """The most memory of a GPU that was used."""
    rows: StrictInt | None = Field(default=None, json_schema_extra={"format": "int64"})
    """The rows of the data set that are used."""
    note: str = ""
    """What else there is to know: rows that were left out, a smaller batch, a registry that is waited for."""
    image: str = ""
    """The image that was pushed."""
    digest: str = ""
    """What the image is known by for ever, sha256:..."""


class TimelineStep(ApiModel):
    """A step on the way to being ready that is done."""

    step: str
    """NodesRequested, NodesReady, ImagePulled, WeightsLoaded, EngineReady, Serving or FirstToken."""
    time: str = Field(json_schema_extra={"format": "date-time"})
    """When it was done."""
    message: str = ""
    """What there is to tell of it."""


class WorkspaceStatus(ApiModel):
    """What the operator reports."""

    worker_nodes: tuple[str, ...] = ()
    """The names of the nodes that the workload may use."""
    conditions: tuple[Condition, ...] = ()
    """The aspects of the Workspace's state."""
    state: str = ""
    """All of it in a word: Pending, Ready or NotReady for inference; Pending, Running, Succeeded or Failed for
    tuning."""
    target_node_count: StrictInt | None = Field(default=None, json_schema_extra={"format": "int32"})
    """How many nodes the workload needs."""
    performance: PerformanceStatus | None = None
    """What the model server found when it measured itself."""
    tuning: TuningStatus | None = None
    """How far the fine-tuning is, and what came of it."""
    failure: FailureStatus | None = None
    """Why the Workspace does not do what it is for; absent while all is well."""
    timeline: tuple[TimelineStep, ...] = ()
    """How it came to be ready, step by step, the first time."""


class Workspace(ApiModel):
    """A model to serve or to tune, and the machines to do it on."""

    api_version: Literal["kaito.sh/v1beta1"] = "kaito.sh/v1beta1"
    """The version of the API that the object is written in."""
    kind: Literal["Workspace"] = "Workspace"
    """The kind of the object."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """The object's name, namespace, labels and annotations."""
    resource: ResourceSpec | None = None
    """The machines that the workload runs on."""
    inference: InferenceSpec | None = None
    """The model to serve."""
    tuning: TuningSpec | None = None
    """The fine-tuning to run."""
    status: WorkspaceStatus | None = None
    """What the operator reports."""

    @classmethod
    def parse(cls, manifest: Manifest) -> Self:
        """The Workspace that a manifest of any served version describes; unknown fields are ignored.

        Raises InvalidObject, which names every field of a wrong type.
        """
        try:
            return cls.model_validate(to_v1beta1(manifest))
        except ValidationError as error:
            raise InvalidObject(field_errors(error)) from error
        except UnservedVersion as error:
            raise InvalidObject([FieldError("apiVersion", manifest.get("apiVersion"), str(error))]) from error

    def to_manifest(self) -> Manifest:
        """The v1beta1 manifest, with the fields that were given and no others."""
        given: Manifest = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return {"apiVersion": WORKSPACES.api_version, "kind": WORKSPACES.kind, **given}

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return Key(self.metadata.get("namespace", ""), self.name)

    @property
    def name(self) -> str:
        """metadata.name, empty when a server has yet to choose one."""
        return str(self.metadata.get("name") or "")

    @property
    def namespace(self) -> str:
        """metadata.namespace."""
        return self.key.namespace

    @property
    def labels(self) -> dict[str, str]:
        """metadata.labels."""
        return self.metadata.get("labels") or {}

    @property
    def annotations(self) -> dict[str, str]:
        """metadata.annotations."""
        return self.metadata.get("annotations") or {}

    @property
    def preset(self) -> PresetSpec | None:
        """The preset that is served or tuned."""
        part = self.inference or self.tuning
        return part.preset if part else None

    def runtime(self, default: Literal["vllm", "transformers"] = "vllm") -> Literal["vllm", "transformers"]:
        """The engine that the runtime annotation asks for; an unknown word is vllm, as KAITO has it."""
        wanted = self.annotations.get(RUNTIME_ANNOTATION)
        if wanted is None:
            return default
        return "transformers" if wanted == "transformers" else "vllm"
