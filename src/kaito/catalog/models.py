# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What models are: the records of the catalogue and how one is found by name.

The records are facts (`data/models.yaml`): sizes, shapes, licences, what was tested. What follows from them is
computed elsewhere: engine options in `kaito.catalog.flags`, nodes and GPUs in `kaito.catalog.sizing`. Nothing here
asks a hub: an id that the catalogue does not hold is a record without facts.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict

from kaito.catalog.files import read_data

UNEVEN = ("Gemma", "GptOss", "NemotronH", "Qwen3_5", "Qwen3Next", "DeepseekV4", "Cohere2", "GlmMoeDsa", "DeepseekV32")
"""Families with windows, states or indices in some layers."""
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


class Record(BaseModel):
    """An entry of a data file: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))


class AttentionLayers(Record):
    """Layers of one kind that keep something of every token, or of the last ones."""

    count: int
    kv_heads: int
    head_dim: int
    """Elements of a key, and of a value; with `latent`, of the one vector that stands for both."""
    window: int | None = None
    """How many tokens back they look; None for all. What lies further back is dropped from the cache."""
    chunked: bool = False
    """They look back to the last multiple of `window` instead (Llama 4)."""
    latent: bool = False
    """One vector for all heads (MLA), which every GPU of a tensor-parallel group keeps whole."""
    index_bytes: int = 0
    """What a sparse attention's index keeps of each token beside, whatever the cache's number format."""


class StateLayers(Record):
    """Layers of one kind that keep a state of fixed size for each request: Mamba, gated delta nets, short
    convolutions.

    Tensor parallelism divides it; the channels of groups are repeated so that each GPU has those of its heads.
    """

    count: int
    convolved: int
    """Channels of the convolution, without those of the groups."""
    memory: int
    """How many earlier tokens the convolution sees: its kernel less one."""
    state: int = 0
    """Elements of the recurrent state."""
    state_bytes: int | None = None
    """Of one of them, where it is not the model's own number format."""
    groups: int = 0
    group_channels: int = 0
    """Convolved channels of each group (Mamba 2: B and C)."""


class Shape(Record):
    """The dimensions of a transformer that decide how much memory a token takes and how it can be split."""

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int | None = None
    """Where it is not hidden_size / heads."""
    kv_lora_rank: int | None = None
    """With multi-head latent attention (MLA) only, as the next."""
    qk_rope_head_dim: int | None = None
    attention_layers: tuple[AttentionLayers, ...] = ()
    """Where not every layer keeps the same. Empty together with `state_layers`: all layers are alike."""
    state_layers: tuple[StateLayers, ...] = ()
    vocab_size: int | None = None
    tied_embeddings: bool = False
    """The output layer's weights are those of the input's."""
    experts_per_token: int | None = None
    """In a mixture of experts, how many of them work on a token."""

    @property
    def attention(self) -> Literal["MLA", "MHA", "MQA", "GQA"]:
        """How key-value heads are shared."""
        if self.kv_lora_rank is not None:
            return "MLA"
        if self.kv_heads == self.heads:
            return "MHA"
        return "MQA" if self.kv_heads == 1 else "GQA"

    @property
    def head_size(self) -> int:
        """Elements of one head."""
        return self.head_dim or self.hidden_size // self.heads

    @property
    def attending(self) -> tuple[AttentionLayers, ...]:
        """The layers that keep something of each token, by kind."""
        if self.attention_layers or self.state_layers:
            return self.attention_layers
        if self.kv_lora_rank is not None:
            width = self.kv_lora_rank + (self.qk_rope_head_dim or 0)
            return (AttentionLayers(count=self.layers, kv_heads=1, head_dim=width, latent=True),)
        return (AttentionLayers(count=self.layers, kv_heads=self.kv_heads, head_dim=self.head_size),)


class TransformersFamily(Record):
    """How the transformers engine loads a model of this family."""

    dtype: str
    trust_remote_code: bool = False
    chat_template: str | None = None


class TuningNeeds(Record):
    """What fine-tuning takes."""

    disk_gib: int
    gpu_memory_gib: int


class ModelFacts(Record):
    """What is known of one model. A hub id that is not in the catalogue has an id and nothing else."""

    id: str
    """The Hugging Face id, in the owner's spelling."""
    aliases: tuple[str, ...] = ()
    """Names of presets that mean this model."""
    license: str | None = None
    pipeline: str | None = None
    weights_gib: float | None = None
    """Of all weight files, as KAITO counts them: node counts, disk and time to start follow from it."""
    loaded_gib: float | None = None
    """What an engine loads, where the repository holds the weights more than once."""
    architecture: str | None = None
    token_limit: int | None = None
    shape: Shape | None = None
    dtype: str | None = None
    """The type to compute with where the rule (auto if quantised, else bfloat16) does not fit."""
    quantization: str | None = None
    quantization_bits: int | None = None
    format: Literal["hf", "mistral"] = "hf"
    """How the repository's files are laid out."""
    revision: str | None = None
    """The commit that was tested."""
    gated: bool = False
    """The hub asks for a token."""
    transformers: TransformersFamily | None = None
    """Set where the transformers engine was tested with it."""
    tuning: TuningNeeds | None = None
    """Set where fine-tuning was tested with it."""
    cuda_toolkit: bool = False
    """Kernels are compiled at start-up although the architecture alone does not ask for it."""
    built_locally: bool = False
    """No hub has it; its weights are made on the machine."""
    reviewed: bool = True
    """In the catalogue: somebody looked at what it is. Not so what a hub says of itself."""

    @property
    def name(self) -> str:
        """The last part of the id in lower case: what engine options are looked up by."""
        return self.id.rpartition("/")[2].lower()

    @property
    def served_name(self) -> str:
        """What clients write as `model` unless the Workspace belongs to something with a name of its own."""
        return self.name

    @property
    def is_known(self) -> bool:
        """Whether the catalogue holds facts about it."""
        return self.weights_gib is not None

    @property
    def sees(self) -> bool:
        """Whether it takes images, by the name of its architecture or its pipeline."""
        by_name = (self.architecture or "").endswith(("ForConditionalGeneration", "_VL", "_VL_V2", "VLForCausalLM"))
        return by_name or self.pipeline in ("image-text-to-text", "any-to-any")

    @property
    def has_uneven_layers(self) -> bool:
        """Whether its family has layers that do not keep everything of every token, which the catalogue does not
        count."""
        shape = self.shape
        plain = shape is not None and not shape.attention_layers and not shape.state_layers
        return plain and self.reviewed and (self.architecture or "").startswith(UNEVEN)

    @property
    def runtimes(self) -> tuple[Literal["vllm", "transformers"], ...]:
        """The engines it was tested with; a model without facts may be tried with any."""
        return ("vllm", "transformers") if self.transformers or not self.is_known else ("vllm",)


class UnknownModel(LookupError):
    """No preset has this name. `suggestions` holds the nearest names; the text is for users."""

    def __init__(self, name: str, message: str, suggestions: tuple[str, ...] = ()) -> None:
        self.name = name
        self.suggestions = suggestions
        super().__init__(message)


class Catalogue:
    """All presets, found by id, alias or the last part of the id, whatever the case."""

    def __init__(self, models: Iterable[ModelFacts], *, retired: Mapping[str, str] | None = None) -> None:
        self.models = tuple(models)
        self.retired = dict(retired or {})
        self._by_name: dict[str, ModelFacts] = {}
        for model in self.models:
            for name in (model.id, model.name, *model.aliases):
                if self._by_name.setdefault(name.lower(), model) is not model:
                    raise ValueError(f"two models of the catalogue are called {name!r}")

    def find(self, name: str) -> ModelFacts:
        """The model that a preset's name means; for an `org/model` that the catalogue does not hold, a record without
        facts.

        Raises UnknownModel, with the nearest names, for anything else.
        """
        found = self._by_name.get(name.lower())
        if found is not None:
            return found
        if _HUB_ID.fullmatch(name):
            return ModelFacts(id=name)
        raise self._unknown(name)

    def problem(self, name: str) -> str | None:
        """Why no preset can have this name, in one sentence for the user; None if one can."""
        try:
            self.find(name)
        except UnknownModel as error:
            return str(error)
        return None

    def names(self) -> tuple[str, ...]:
        """One name for each model: its alias where it has one, else its id."""
        return tuple(model.aliases[0] if model.aliases else model.id for model in self.models)

    def _unknown(self, name: str) -> UnknownModel:
        hub_id = self.retired.get(name.lower())
        if hub_id is not None:
            message = f"preset {name!r} is no longer supported; write {hub_id!r} to run the model untested, by its id"
            return UnknownModel(name, message, (hub_id,))
        near = tuple(difflib.get_close_matches(name.lower(), self._by_name, n=3, cutoff=0.6))
        examples = ", ".join(self.names()[:4])
        hint = f"did you mean {' or '.join(near)}?" if near else f"presets are, among others, {examples}."
        message = f"there is no preset {name!r}: {hint} Any Hugging Face model can be written as org/model."
        return UnknownModel(name, message, near)


@cache
def catalogue() -> Catalogue:
    """The catalogue that ships with the product, read once."""
    data = read_data("models.yaml")
    families = data["transformers_families"]
    models = []
    for record in data["models"]:
        family = record.get("transformers")
        models.append(ModelFacts.model_validate({**record, "transformers": families[family] if family else None}))
    return Catalogue(models, retired=data["retired"])
