# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a model fits a machine: where each GiB of a GPU goes, how long a request may be, and what would fit instead.

Arithmetic only. `kaito.catalog.sizing` says how many nodes a Workspace asks for, by KAITO's formula; here is what vLLM
makes of the GPUs it gets. A GPU's share (`gpu_memory_utilization` of what CUDA reports) goes to weights, activations,
CUDA graphs and communication; the rest is the cache of keys and values, laid out as `kaito.catalog.kvcache` has it.

What is not arithmetic is held on the high side, so that no more is promised than there is. Sources of the
constants: the memory profiles that vLLM printed on GPUs (https://github.com/vllm-project/vllm/pull/10511,
/issues/13061, /issues/21348), its defaults for batches (`EngineArgs.get_batch_defaults` of 0.32), and for number
formats QLoRA (arXiv 2305.14314, section 3), the OCP microscaling formats 1.0 and vLLM's table of kernels by GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from kaito.api.contracts import Parallelism
from kaito.catalog.gpus import Gpus, InstanceType
from kaito.catalog.kvcache import Cache, cache_of
from kaito.catalog.models import ModelFacts, Shape
from kaito.catalog.sizing import DEFAULT_CONTEXT, GIB, gpu_memory_utilization, parallelism

KvFormat = Literal["auto", "fp8"]
WeightFormat = Literal["fp8", "int8", "awq", "gptq", "nf4", "mxfp4", "nvfp4"]

BITS: Final[dict[str, float]] = {
    "bf16": 16,
    "fp8": 8.0,
    "int8": 8.0,
    "awq": 4.25,  # a 16-bit scale and a 4-bit zero for 128 weights, and what is left in 16 bits
    "gptq": 4.25,
    "nf4": 4.127,  # with double quantisation
    "mxfp4": 4.25,  # an 8-bit scale for 32 weights
    "nvfp4": 4.5,  # an 8-bit scale for 16 weights
}
"""Bits to a weight in the linear layers; embeddings stay in 16."""
LEAST_CAPABILITY: Final[dict[str, float]] = {"fp8": 8.0, "mxfp4": 8.0, "nvfp4": 8.0, "awq": 7.5, "gptq": 7.5}
"""The oldest GPUs with kernels for a format. Those without native support unpack to 16 bits as they compute."""

RUNTIME_GIB: Final = 0.3
"""Libraries' own memory on each GPU; vLLM printed 0.05 to 0.2 GiB."""
COMMUNICATION_GIB: Final = 1.8
"""Buffers of NCCL and of the all-reduce kernels on each of several GPUs (pull request 10511: 3.58 - 1.79 GiB)."""
GRAPHS_GIB: Final = 0.8
"""CUDA graphs for the batch sizes that vLLM captures."""
SPARE: Final = 0.02
"""Share of a GPU's memory that fragmentation and what we do not know may take."""
WEIGHTS_OVERHEAD: Final = 1.02
"""Loaded weights take a little more than their files, by alignment and padding (KAITO has the same factor)."""
ACTIVATION_ROWS: Final = 16
"""Vectors of the hidden size that the widest layer holds at once for each token of a batch. Llama 3 8B with 8192
tokens: 1.0 GiB, and 0.25 GiB of logits; vLLM printed 1.19 to 1.26 GiB."""
EXPERT_ROWS: Final = 1.5
"""The same for each expert that a token goes through."""
LOGIT_COPIES: Final = 2
LOGIT_BYTES: Final = 4
ENCODER_GIB: Final = 3.0
"""What encoding the largest image takes while it lasts, in models that see. Its weights are among the others."""
ADAPTER_LAYERS: Final = 7
"""Matrices of a layer that a LoRA adapter may change, each with two of its rank beside it."""
DEFAULT_VOCABULARY: Final = 256_000
"""Where a model's is not known: more than most have."""
LARGE_GIB: Final = 70
HUGE_GIB: Final = 160


@dataclass(frozen=True, slots=True)
class Demand:
    """What is to be served."""

    context: int = DEFAULT_CONTEXT
    """Tokens of the longest request, prompt and answer together."""
    requests: int = 1
    """How many such at once."""
    kv_format: KvFormat = "auto"
    weights: WeightFormat | None = None
    """To quantise 16-bit weights to while they are loaded."""
    adapters: int = 0
    adapter_rank: int = 16
    utilization: float | None = None
    """Of a GPU's memory; None takes what the engine is started with."""


@dataclass(frozen=True, slots=True)
class Part:
    """What something takes of one GPU."""

    name: str
    gib: float


@dataclass(frozen=True, slots=True)
class Fit:
    """What one model comes to on one kind of machine."""

    model: ModelFacts
    gpus: Gpus
    nodes: int
    demand: Demand
    parallelism: Parallelism
    parts: tuple[Part, ...]
    """Where the memory of the fullest GPU goes. If it fits, they add up to what CUDA reports of it."""
    kv_gib: float
    """What is left for keys and values on each GPU; below zero when the rest does not fit."""
    needed_gib: float
    """What the demanded requests take of that."""
    max_context: int
    """The longest request that fits, up to what the model was made for; 0 for none."""
    tokens: int
    """How many tokens all requests of the demanded length can have together, over all copies of the model."""
    concurrency: float
    """How many requests of the demanded length fit at once."""
    notes: tuple[str, ...] = ()
    """What is worth knowing, in sentences."""

    @property
    def fits(self) -> bool:
        """Whether what is demanded can be served."""
        return self.kv_gib > 0 and self.demand.context <= self.max_context and self.concurrency >= self.demand.requests

    @property
    def is_impossible(self) -> bool:
        """Whether it would not fit if only weights and the demanded requests took memory: then no engine can
        serve it. Between this and `fits` it is for the engine to find out."""
        weights = next(part.gib for part in self.parts if part.name == "weights") / WEIGHTS_OVERHEAD
        return weights + self.needed_gib > self._share or self.demand.context > (self.model.token_limit or math.inf)

    @property
    def why(self) -> str:
        """Why it fits, or why not, in one sentence."""
        limit, asked = self.model.token_limit, self.demand.context
        each = f"{self.gpus.usable_per_gpu_gib:.1f} GiB of {self.gpus.product or 'a GPU'}"
        rest = sum(part.gib for part in self.parts if part.name not in ("keys and values", "left alone"))
        if self.kv_gib <= 0:
            return f"weights and working memory take {rest:.1f} GiB; the engine may use {self._share:.1f} of {each}"
        if limit is not None and asked > limit:
            return f"the model was made for {limit} tokens, and {asked} are asked for"
        left = f"{self.kv_gib:.1f} GiB of {each} are left for keys and values"
        if asked > self.max_context:
            return f"{left}; {asked} tokens take {self.needed_gib:.1f}, and {self.max_context} tokens fit"
        if self.concurrency < self.demand.requests:
            wanted = f"{self.demand.requests} requests of {asked} tokens take {self.needed_gib:.1f}"
            return f"{left}; {wanted}, and {math.floor(self.concurrency)} fit at once"
        return f"weights and working memory take {rest:.1f} GiB of {each}, and {self.kv_gib:.1f} hold keys and values"

    @property
    def _share(self) -> float:
        return self.gpus.usable_per_gpu_gib - sum(part.gib for part in self.parts if part.name == "left alone")


def fit(model: ModelFacts, gpus: Gpus, demand: Demand | None = None, *, nodes: int = 1) -> Fit:
    """What the model comes to on so many nodes with these GPUs. Raises ValueError for a model without facts."""
    demand = demand or Demand()
    if model.weights_gib is None or model.shape is None:
        raise ValueError(f"nothing is known of {model.id}, so it cannot be sized")
    spread = parallelism(model, gpus, nodes)
    usable = gpus.usable_per_gpu_gib
    share = usable * (demand.utilization or gpu_memory_utilization(gpus))
    tokens = batch_tokens(gpus)
    used = (
        Part("weights", _weights_gib(model, model.shape, spread, demand.weights)),
        Part("activations", _activations_gib(model, model.shape, gpus, tokens)),
        Part("CUDA graphs", GRAPHS_GIB),
        Part("libraries", RUNTIME_GIB),
        *([Part("communication", COMMUNICATION_GIB)] if spread.tensor * spread.pipeline > 1 else []),
        *([Part("adapters", _adapters_gib(model.shape, spread, demand))] if demand.adapters else []),
        Part("spare", usable * SPARE),
    )
    kv_gib = share - sum(part.gib for part in used)
    cache = _cache(model.shape, spread, demand, in_flight=(spread.pipeline + 1) * tokens)
    available = max(0, int(kv_gib * GIB))
    longest = cache.longest(available, model.token_limit or demand.context)
    concurrency = cache.concurrency(available, demand.context) * spread.data if longest else 0.0
    held = cache.bytes_for(demand.context) * math.ceil(demand.requests / spread.data) + cache.block_bytes
    return Fit(
        model=model,
        gpus=gpus,
        nodes=nodes,
        demand=demand,
        parallelism=spread,
        parts=(*used, Part("keys and values", max(kv_gib, 0.0)), Part("left alone", usable - share)),
        kv_gib=kv_gib,
        needed_gib=held / GIB,
        max_context=longest,
        tokens=int(concurrency * demand.context),
        concurrency=concurrency,
        notes=tuple(_notes(model, gpus, spread, demand)),
    )


def stored_as(model: ModelFacts) -> str:
    """The format of a model's weights, as `BITS` calls it; `bf16` where they are in 16 bits, and for what is not
    known."""
    said = (model.quantization or "").lower().replace("-", "_")
    for name in ("mxfp4", "nvfp4", "nf4", "awq", "gptq", "fp8", "int8"):
        if name in said:
            return name
    return {"float_quantized": "fp8", "bitsandbytes": "nf4"}.get(said, "bf16")


def weights_gib(model: ModelFacts, as_format: WeightFormat | None = None) -> float:
    """Size of the weights, as stored or as quantised while they are loaded: the linear layers in the new format, the
    embeddings as they are. What is stored in fewer than 16 bits stays as it is."""
    stored = model.loaded_gib or model.weights_gib or 0.0
    if as_format is None or model.quantization is not None:
        return stored
    embeddings = min(stored, _embeddings_gib(model.shape) if model.shape else 0.0)
    return embeddings + (stored - embeddings) * BITS[as_format] / BITS["bf16"]


def batch_tokens(gpus: Gpus) -> int:
    """Tokens that vLLM's server computes at once by default."""
    memory = gpus.usable_per_gpu_gib
    if memory >= HUGE_GIB:
        return 16384
    return 8192 if memory >= LARGE_GIB and "A100" not in gpus.product else 2048


def batch_requests(gpus: Gpus) -> int:
    """Requests that vLLM's server works on at once by default."""
    return 1024 if batch_tokens(gpus) > 2048 else 256


@dataclass(frozen=True, slots=True)
class Offer:
    """A machine type that would do."""

    type: InstanceType
    fit: Fit

    @property
    def usd_per_hour(self) -> float | None:
        """Of all nodes; None where the price is not known."""
        price = self.type.usd_per_hour
        return None if price is None else price * self.fit.nodes


def offers(model: ModelFacts, types: Iterable[InstanceType], demand: Demand | None = None) -> tuple[Offer, ...]:
    """The machine types on one of which the model fits, the cheapest first, those without a price last and then the
    smallest first. Of types with the same GPUs in one cloud only the cheapest."""
    best: dict[tuple[str, str, int, float], Offer] = {}
    for one in types:
        if one.retired or not one.gpus.is_nvidia:
            continue
        found = Offer(one, fit(model, one.gpus, demand))
        if not found.fit.fits or _lacks_kernels(model, one.gpus, demand):
            continue
        key = (one.cloud, one.gpus.product, one.gpus.count, one.gpus.memory_gib)
        if key not in best or _rank(found) < _rank(best[key]):
            best[key] = found
    return tuple(sorted(best.values(), key=_rank))


def instead(model: ModelFacts, types: Iterable[InstanceType], demand: Demand | None = None, *, most: int = 3) -> str:
    """What to choose in place of something that does not fit, as part of a sentence; empty where nothing does."""
    if model.weights_gib is None or model.shape is None:
        return ""
    found = offers(model, types, demand)[:most]
    return ", ".join(
        f"{offer.type.name} ({_gpus_text(offer.type.gpus)}{_price_text(offer.usd_per_hour)})" for offer in found
    )


def least_gpus(
    model: ModelFacts, types: Iterable[InstanceType], demand: Demand | None = None, *, most: int = 2
) -> tuple[str, ...]:
    """The GPUs of the smallest machines that would do, such as `2 x H100 94 GiB`, those with the least memory first."""
    if model.weights_gib is None or model.shape is None:
        return ()
    found = sorted(offers(model, types, demand), key=lambda offer: (offer.type.gpus.memory_gib, offer.type.gpus.count))
    return tuple(dict.fromkeys(_gpus_text(offer.type.gpus) for offer in found))[:most]


def _rank(offer: Offer) -> tuple[bool, float, float, str]:
    price = offer.usd_per_hour
    return price is None, price or 0.0, offer.type.gpus.memory_gib, offer.type.name


def _gpus_text(gpus: Gpus) -> str:
    return f"{gpus.count} x {gpus.product.removeprefix('NVIDIA ')} {gpus.memory_per_gpu_gib:g} GiB"


def _price_text(usd: float | None) -> str:
    return "" if usd is None else f", {usd:.2f} USD/h"


def _lacks_kernels(model: ModelFacts, gpus: Gpus, demand: Demand | None) -> bool:
    format_ = (demand.weights if demand else None) or stored_as(model)
    capability = gpus.compute_capability
    return capability is not None and capability < LEAST_CAPABILITY.get(format_, 0.0)


def _notes(model: ModelFacts, gpus: Gpus, spread: Parallelism, demand: Demand) -> Iterable[str]:
    if _lacks_kernels(model, gpus, demand):
        format_ = demand.weights or stored_as(model)
        yield f"{gpus.product or 'This GPU'} has no kernels for {format_} weights."
    if demand.weights and model.quantization:
        yield f"The weights are stored in {model.quantization}, and stay so."
    if spread.data > 1:
        yield f"Each of the {spread.data} GPUs of a node holds a copy of the model."
    if spread.pipeline > 1:
        yield "The layers are spread over stages, as heads or nodes ask for; a request passes them one by one."
    if model.has_uneven_layers:
        yield "How much each layer keeps is not known; all are counted as full attention, which takes the most."


def _weights_gib(model: ModelFacts, shape: Shape, spread: Parallelism, as_format: WeightFormat | None) -> float:
    """On the fullest GPU: its part of the layers of its stage, and of one embedding table."""
    total = weights_gib(model, as_format)
    if spread.pipeline == 1:
        return total / spread.tensor * WEIGHTS_OVERHEAD
    embeddings = min(total, _embeddings_gib(shape))
    table = embeddings if shape.tied_embeddings else embeddings / 2
    stage = math.ceil(shape.layers / spread.pipeline) / shape.layers
    return ((total - embeddings) * stage + table) / spread.tensor * WEIGHTS_OVERHEAD


def _embeddings_gib(shape: Shape) -> float:
    tables = 1 if shape.tied_embeddings else 2
    return (shape.vocab_size or 0) * shape.hidden_size * 2 * tables / GIB


def _activations_gib(model: ModelFacts, shape: Shape, gpus: Gpus, tokens: int) -> float:
    rows = ACTIVATION_ROWS + EXPERT_ROWS * (shape.experts_per_token or 0)
    layer = tokens * shape.hidden_size * 2 * rows
    vocabulary = shape.vocab_size or DEFAULT_VOCABULARY
    logits = batch_requests(gpus) * vocabulary * LOGIT_BYTES * LOGIT_COPIES
    return (layer + logits) / GIB + (ENCODER_GIB if model.sees else 0.0)


def _adapters_gib(shape: Shape, spread: Parallelism, demand: Demand) -> float:
    """Room for the weights of each: two matrices of the rank beside each matrix of a layer, in 16 bits. Those of
    the wide feed-forward matrices are up to four times as long as the hidden size."""
    each = ADAPTER_LAYERS * shape.layers * demand.adapter_rank * (shape.hidden_size * 5) * 2
    return demand.adapters * each / spread.tensor / spread.pipeline / GIB


def _cache(shape: Shape, spread: Parallelism, demand: Demand, *, in_flight: int) -> Cache:
    element = 1 if demand.kv_format == "fp8" else 2
    return cache_of(shape, tensor=spread.tensor, pipeline=spread.pipeline, element_bytes=element, in_flight=in_flight)
