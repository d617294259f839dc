# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""docs/models.md, written from the catalogue's data: `python -m kaito.catalog.page`."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from kaito.catalog.fit import offers
from kaito.catalog.gpus import CLOUDS, InstanceType, instance_types, machines
from kaito.catalog.kvcache import cache_of
from kaito.catalog.models import ModelFacts, catalogue

_HEAD = """# Models and machines

Generated from the data files below `src/kaito/catalog/data` (`make generate`). [sizing.md](sizing.md) explains the
figures; `kaito models size NAME` works them out for a context, a GPU or a machine type of your choice.

## Presets

A preset is named in `inference.preset.name` by its short name or its id, whatever the case; any other Hugging Face
model by its id. GiB: what an engine loads. Cache: what a request of 8192 tokens takes of one GPU, in GiB. Least
machine: the cheapest of those below that serves 2048 tokens.
"""
_MACHINES = """## Machine types

Memory in GiB as the cloud gives it, of all GPUs together. Prices in US dollars an hour: list prices on demand for Linux
on the day and in the region that each table names. They are a snapshot, good for comparing; ask the cloud before
paying. A type without a price is one whose price is not known here.
"""
_GPUS = """## GPUs

By the name that drivers and node labels give. Usable: what CUDA reports, of which an engine takes its share; where a
figure has a question mark nine tenths are taken.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_presets(), "", *_retired(), "", _MACHINES, *_clouds(), _GPUS, *_gpus(), ""])


def _presets() -> Iterable[str]:
    yield "| Name | Id | GiB | Stored | Context | Cache | Engines | Tuning | Least machine | License |"
    yield "|---|---|--:|---|--:|--:|---|---|---|---|"
    for model in catalogue().models:
        least = next(iter(offers(model, instance_types())), None)
        price = f", {least.usd_per_hour:.2f} USD/h" if least and least.usd_per_hour is not None else ""
        yield _row(
            f"`{model.aliases[0]}`" if model.aliases else "",
            f"`{model.id}`",
            f"{model.loaded_gib or model.weights_gib or 0:.1f}",
            model.quantization or "16 bits",
            f"{model.token_limit}",
            _cache(model),
            ", ".join(model.runtimes),
            f"{model.tuning.gpu_memory_gib} GiB" if model.tuning else "",
            f"{least.type.name} ({_gpus_of(least.type)}{price})" if least else "several",
            model.license or "",
        )


def _cache(model: ModelFacts) -> str:
    return f"{cache_of(model.shape).bytes_for(8192) / 1024**3:.2f}" if model.shape else ""


def _retired() -> Iterable[str]:
    names = ", ".join(f"`{name}` (`{id_}`)" for name, id_ in catalogue().retired.items())
    yield f"No longer presets, but still models that can be asked for by their id: {names}."


def _clouds() -> Iterable[str]:
    for cloud in CLOUDS:
        types = instance_types(cloud)
        priced = next((one.price for one in types if one.price), None)
        dated = f", prices of {priced.as_of} in {priced.region}" if priced else ""
        yield from (f"### {cloud}{dated}", "")
        yield "| Type | GPUs | GiB | Compute capability | NVMe | USD/h |"
        yield "|---|---|--:|--:|---|--:|"
        for one in types:
            yield _row(
                f"`{one.name}`{' (no longer handed out)' if one.retired else ''}",
                f"{one.gpus.count} x {one.gpus.product}",
                f"{one.gpus.memory_gib:g}",
                f"{one.gpus.compute_capability}" if one.gpus.compute_capability else "",
                "yes" if one.nvme else "",
                f"{one.usd_per_hour:.2f}" if one.usd_per_hour is not None else "",
            )
        yield ""


def _gpus() -> Iterable[str]:
    yield "| GPU | GiB | Usable | Compute capability | GB/s | Link |"
    yield "|---|--:|--:|--:|--:|---|"
    for one in machines().products:
        yield _row(
            one.product,
            f"{one.memory_gib:g}",
            f"{one.usable:.1f}" + ("" if one.usable_gib is not None else " ?"),
            f"{one.compute_capability}" if one.compute_capability else "",
            f"{one.bandwidth_gbps:g}" if one.bandwidth_gbps else "",
            one.link,
        )


def _gpus_of(type_: InstanceType) -> str:
    return f"{type_.gpus.count} x {type_.gpus.product.removeprefix('NVIDIA ')} {type_.gpus.memory_per_gpu_gib:g} GiB"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.stdout.write(page())
