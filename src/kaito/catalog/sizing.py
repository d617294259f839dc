# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How much a model takes: GPUs, nodes, disk, time to start, and how it is spread over the GPUs. Arithmetic only.

The formulas are those of KAITO v0.12, so that the same Workspace asks for the same number of nodes. They know dense
attention with 16-bit keys and values; what differs by the kind of attention goes through `kv_bytes_per_token`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from kaito.api.contracts import Parallelism
from kaito.catalog.gpus import Gpus
from kaito.catalog.models import ModelFacts, Shape

GIB: Final = 1024**3

# KAITO v0.12, node estimator for vLLM.
MEMORY_UTILIZATION: Final = 0.84
"""Share of a GPU's memory that the engine may use."""
A10_MEMORY_UTILIZATION: Final = 0.82
"""The same that an NVIDIA A10 is started with."""
BASE_OVERHEAD_GIB: Final = 2.3
"""Memory of a GPU that goes to the CUDA context and activations."""
FRAGMENTATION: Final = 1.05
WEIGHTS_OVERHEAD: Final = 1.02
DEFAULT_CONTEXT: Final = 2048
"""Tokens that must fit where the user's configuration does not say."""

KV_ELEMENT_BYTES: Final = 2
DISK_OVERHEAD_GIB: Final = 80
READY_BASE_S: Final = 15 * 60
READY_S_PER_GIB: Final = 18
READY_MIN_S: Final = 30 * 60
READY_MAX_S: Final = 180 * 60


class DoesNotFit(ValueError):
    """No number of such nodes can serve the model; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class NodeEstimate:
    """What a model needs of one kind of node."""

    nodes: int
    gpus: int
    """The fewest GPUs that hold it; the nodes may have more."""


def kv_bytes_per_token(shape: Shape) -> int:
    """Memory that one token of context takes in the KV cache, over all layers: the latent and the rope part with MLA,
    else a key and a value for each key-value head."""
    if shape.kv_lora_rank is not None:
        elements = shape.kv_lora_rank + (shape.qk_rope_head_dim or 0)
    else:
        elements = 2 * shape.kv_heads * shape.head_size
    return elements * shape.layers * KV_ELEMENT_BYTES


def weights_bytes(weights_gib: float) -> int:
    """The size in bytes, rounded up as a Kubernetes quantity `<weights_gib>Gi` is."""
    return math.ceil(weights_gib * GIB)


def estimate_nodes(model: ModelFacts, gpus: Gpus, *, context: int = DEFAULT_CONTEXT) -> NodeEstimate:
    """How many nodes with these GPUs the model needs with a context of so many tokens.

    A model without facts is taken to fit one node. Raises DoesNotFit when one GPU's memory is used up before any
    weights are in it.
    """
    if model.weights_gib is None:
        return NodeEstimate(nodes=1, gpus=gpus.count)
    per_token = kv_bytes_per_token(model.shape) if model.shape else 0
    available = MEMORY_UTILIZATION * (int(gpus.memory_gib * GIB) // gpus.count)
    reserve = BASE_OVERHEAD_GIB * GIB + context * per_token / gpus.count
    if available <= reserve:
        raise DoesNotFit(
            f"{model.id} with a context of {context} tokens needs more than the {gpus.memory_per_gpu_gib:g} GiB of one "
            f"{gpus.product or 'GPU'}; choose a GPU with more memory or a smaller max-model-len"
        )
    weights_per_gpu = (available - reserve) / FRAGMENTATION
    needed = int(WEIGHTS_OVERHEAD * weights_bytes(model.weights_gib) / weights_per_gpu) + 1
    return NodeEstimate(nodes=math.ceil(needed / gpus.count), gpus=needed)


def parallelism(model: ModelFacts, gpus: Gpus, nodes: int = 1) -> Parallelism:
    """How to spread the model over all GPUs of so many nodes.

    A model that takes less than half of one GPU is copied to each GPU of its node. Any other is split: each layer over
    as many GPUs of a node as its heads can be divided by, the layers over the rest.
    """
    total_gib = gpus.memory_gib
    if (
        nodes == 1
        and gpus.count > 1
        and model.weights_gib is not None
        and model.weights_gib * gpus.count * 2 < total_gib
    ):
        return Parallelism(data=gpus.count)
    tensor = _tensor_degree(model.shape, gpus.count)
    return Parallelism(tensor=tensor, pipeline=nodes * gpus.count // tensor)


def gpu_memory_utilization(gpus: Gpus) -> float:
    """The share of each GPU's memory to start the engine with."""
    return A10_MEMORY_UTILIZATION if gpus.product == "NVIDIA A10" else MEMORY_UTILIZATION


def disk_gib(model: ModelFacts) -> int:
    """Disk space for the weights and all that is unpacked beside them."""
    return int((model.weights_gib or 0) + DISK_OVERHEAD_GIB)


def ready_timeout_s(model: ModelFacts) -> int:
    """How long the model may take from the pod's start until it answers: 15 minutes and 18 seconds per GiB, between
    half an hour and three hours; half an hour when the size is not known."""
    seconds = READY_BASE_S + READY_S_PER_GIB * (model.weights_gib or 0)
    return int(min(max(seconds, READY_MIN_S), READY_MAX_S))


def _tensor_degree(shape: Shape | None, gpus: int) -> int:
    """The largest divisor of the GPU count that the heads can be divided by."""
    if shape is None:
        return gpus
    return next(degree for degree in range(gpus, 0, -1) if gpus % degree == 0 and _divides_heads(shape, degree))


def _divides_heads(shape: Shape, degree: int) -> bool:
    if shape.heads % degree:
        return False
    # The latent cache of MLA is not split by heads; fewer key-value heads than GPUs are copied evenly.
    return shape.kv_lora_rank is not None or shape.kv_heads % degree == 0 or degree % shape.kv_heads == 0
