# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What `kaito models` prints: tables for people, plain data for programs. Pure; `models.py` does the asking."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.text import Text

from kaito.catalog.fit import Demand, Fit, Offer, stored_as
from kaito.catalog.flags import engine_flags
from kaito.catalog.gpus import Gpus, InstanceType
from kaito.catalog.kvcache import cache_of
from kaito.catalog.models import ModelFacts
from kaito.catalog.sizing import disk_gib
from kaito.cli import layout

MOST_OFFERS = 8
BAR = 24


def overview(
    models: Sequence[ModelFacts], least: Mapping[str, Sequence[Offer]], demand: Demand, width: int | None
) -> list[Text]:
    """One row a model, with the cheapest machine that serves it."""
    rows: list[list[layout.Cell]] = []
    for model in models:
        offer = next(iter(least.get(model.id, ())), None)
        rows.append(
            [
                model.aliases[0] if model.aliases else model.id,
                f"{loaded(model):.1f}",
                tokens_text(model.token_limit),
                gpus_text(offer.type.gpus) if offer else "-",
                usd_text(offer.usd_per_hour) if offer else "",
            ]
        )
    lines = layout.table(["NAME", "GIB", "CONTEXT", "LEAST GPUS", "USD/H"], rows)
    note = f"Least GPUs: those of the cheapest machine that serves a request of {demand.context} tokens."
    return [*lines, Text(""), *layout.paragraph(note, width=width)]


def detail(model: ModelFacts, width: int | None) -> list[Text]:
    """Everything that is known of a model."""
    shape, flags = model.shape, engine_flags(model)
    facts: list[list[layout.Cell]] = [
        ["Model", model.id],
        ["Presets", ", ".join(model.aliases) or "by its id"],
        ["License", model.license or "not said"],
        ["Architecture", model.architecture or "not said"],
        ["Weights", f"{loaded(model):.2f} GiB, {stored_text(model)}"],
        ["Context", f"{model.token_limit} tokens" if model.token_limit else "not said"],
    ]
    if shape is not None:
        facts.append(["Layers", layers_text(model)])
        facts.append(["Cache", f"{cache_text(model)} for a request of 8192 tokens"])
    facts += [
        ["Engines", ", ".join(model.runtimes)],
        ["Tool calls", flags.tool_call_parser or "no parser"],
        ["Reasoning", flags.reasoning_parser or "no parser"],
        ["Commit", model.revision or "the newest"],
        ["Disk", f"{disk_gib(model)} GiB with room to unpack"],
    ]
    lines = layout.table(("", ""), facts)[1:]
    if model.gated:
        said = "The hub asks for a token: name a Secret in presetOptions.modelAccessSecret."
        lines += layout.paragraph(said, width=width)
    return [*lines, Text(""), *layout.paragraph(f"What it takes: kaito models size {best_name(model)}", width=width)]


def report(
    model: ModelFacts,
    demand: Demand,
    result: Fit | None,
    kind: InstanceType | None,
    found: Sequence[Offer],
    width: int | None,
) -> list[Text]:
    """Whether it fits, why, and what else would do."""
    head = f"{model.id}: {stored_text(model)}, {loaded(model):.1f} GiB; {demand_text(demand)}"
    lines = [*(Text(line.plain, "bold") for line in layout.paragraph(head, width=width)), Text("")]
    if result is not None:
        lines += _verdict(result, kind, width)
        lines += [Text(""), *breakdown(result, width), Text("")]
        for note in result.notes:
            lines += layout.paragraph(note, width=width)
        lines += [Text("")] if result.notes else []
    return [*lines, *_offers(found, result, kind, width)]


def _verdict(result: Fit, kind: InstanceType | None, width: int | None) -> list[Text]:
    where = kind.name if kind else gpus_text(result.gpus)
    nodes = f"{result.nodes} x " if result.nodes > 1 else ""
    price = kind.usd_per_hour if kind else None
    cost = f" ({usd_text(price * result.nodes)} USD/h)" if price is not None else ""
    state = Text("fits", "green") if result.fits else Text("does not fit", "red")
    line = Text.assemble(f"On {nodes}{where}{cost} it ", state, ".")
    why = f"{result.why[:1].upper()}{result.why[1:]}."
    lines = [line, *layout.paragraph(why, width=width)]
    if result.max_context:
        spread = result.parallelism
        degrees = [("tensor", spread.tensor), ("pipeline", spread.pipeline), ("data", spread.data)]
        shape = " x ".join(f"{name} {degree}" for name, degree in degrees if degree > 1) or "one GPU"
        lines += layout.paragraph(
            f"Longest request: {result.max_context} tokens. Together: {result.tokens} tokens, that is "
            f"{result.concurrency:.1f} requests of {result.demand.context} at once. Spread: {shape}.",
            width=width,
        )
    return lines


def breakdown(result: Fit, width: int | None) -> list[Text]:
    """Where the memory of one GPU goes, with bars where there is room."""
    usable = result.gpus.usable_per_gpu_gib
    with_bars = width is not None and width >= 60
    rows: list[list[layout.Cell]] = []
    for part in result.parts:
        cells: list[layout.Cell] = [part.name, f"{part.gib:6.2f}"]
        if with_bars:
            filled = round(min(part.gib / usable, 1.0) * BAR)
            cells.append(Text("█" * filled, "green" if part.name == "keys and values" else "blue"))
        rows.append(cells)
    together = f"{sum(part.gib for part in result.parts):6.2f}"
    rows.append(["together", together, *([""] if with_bars else [])])
    header = ["OF ONE GPU", "   GIB", *([f"OF {usable:.1f}"] if with_bars else [])]
    return layout.table(header, rows)


def _offers(found: Sequence[Offer], result: Fit | None, kind: InstanceType | None, width: int | None) -> list[Text]:
    shown = better(found, result, kind)[:MOST_OFFERS]
    if not shown:
        where = f" of {kind.cloud}" if kind else ""
        text = f"Nothing cheaper{where} serves it." if found else f"No single machine{where} in the tables serves it."
        return layout.paragraph(text, width=width)
    title = "CHEAPER" if result is not None and result.fits and kind is not None else "WHAT SERVES IT"
    rows: list[list[layout.Cell]] = [
        [
            offer.type.name,
            offer.type.cloud,
            gpus_text(offer.type.gpus),
            tokens_text(offer.fit.max_context),
            f"{min(offer.fit.concurrency, 9999):.0f}",
            usd_text(offer.usd_per_hour),
        ]
        for offer in shown
    ]
    lines = layout.table([title, "CLOUD", "GPUS", "LONGEST", "AT ONCE", "USD/H"], rows)
    priced = [offer.type for offer in shown]
    dates = sorted({f"{one.price.as_of} in {one.price.region} ({one.cloud})" for one in priced if one.price})
    if dates:
        note = f"List prices on demand, as of {'; '.join(dates)}. They may have changed."
        lines += layout.paragraph(note, width=width)
    return lines


def better(found: Sequence[Offer], result: Fit | None, kind: InstanceType | None) -> list[Offer]:
    """What is worth offering: everything where nothing was asked about or it does not fit; else what is cheaper."""
    if result is None or not result.fits:
        return list(found)
    paid = kind.usd_per_hour * result.nodes if kind and kind.usd_per_hour is not None else None
    if paid is None:
        return list(found)
    return [offer for offer in found if offer.usd_per_hour is not None and offer.usd_per_hour < paid]


def summary(model: ModelFacts) -> dict[str, Any]:
    """A model in a list, for programs."""
    return {
        "id": model.id,
        "aliases": list(model.aliases),
        "weightsGiB": loaded(model),
        "tokenLimit": model.token_limit,
        "license": model.license,
        "architecture": model.architecture,
        "quantization": model.quantization,
        "runtimes": list(model.runtimes),
    }


def record(model: ModelFacts) -> dict[str, Any]:
    """A model with everything that is known of it, for programs."""
    flags = engine_flags(model)
    return {
        **summary(model),
        "revision": model.revision,
        "gated": model.gated,
        "diskGiB": disk_gib(model),
        "shape": model.shape.model_dump(mode="json", exclude_defaults=True) if model.shape else None,
        "engine": {key: value for key, value in flags.options().items() if value not in (None, {})},
    }


def sizing(
    model: ModelFacts, demand: Demand, result: Fit | None, kind: InstanceType | None, found: Sequence[Offer]
) -> dict[str, Any]:
    """The answer of `kaito models size`, for programs."""
    answer: dict[str, Any] = {
        "model": summary(model),
        "demand": {"context": demand.context, "requests": demand.requests, "kvCacheDtype": demand.kv_format},
    }
    if result is not None:
        answer["fit"] = {
            "instanceType": kind.name if kind else None,
            "gpus": _gpus(result.gpus),
            "nodes": result.nodes,
            "usdPerHour": kind.usd_per_hour * result.nodes if kind and kind.usd_per_hour is not None else None,
            "fits": result.fits,
            "why": result.why,
            "parallelism": result.parallelism.model_dump(mode="json"),
            "gibOfOneGPU": {part.name: round(part.gib, 3) for part in result.parts},
            "maxContext": result.max_context,
            "tokens": result.tokens,
            "requestsAtOnce": round(result.concurrency, 2),
            "notes": list(result.notes),
        }
    answer["offers"] = [
        {
            "instanceType": offer.type.name,
            "cloud": offer.type.cloud,
            "gpus": _gpus(offer.type.gpus),
            "maxContext": offer.fit.max_context,
            "requestsAtOnce": round(offer.fit.concurrency, 2),
            "usdPerHour": offer.usd_per_hour,
            "priceOf": offer.type.price.model_dump(mode="json") if offer.type.price else None,
        }
        for offer in found
    ]
    return answer


def near(name: str, names: Iterable[str]) -> str:
    """What somebody may have meant, as a sentence; empty where nothing is near."""
    by_lower = {one.lower(): one for one in names}
    found = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(by_lower[one] for one in found)}?" if found else ""


def loaded(model: ModelFacts) -> float:
    """GiB of weights that an engine loads."""
    return model.loaded_gib or model.weights_gib or 0.0


def best_name(model: ModelFacts) -> str:
    """What to write for it."""
    return model.aliases[0] if model.aliases else model.id


def stored_text(model: ModelFacts) -> str:
    """How its weights are stored, in words."""
    if model.quantization is None:
        return "16-bit weights"
    bits = f" in {model.quantization_bits} bits" if model.quantization_bits else ""
    known = stored_as(model)
    same = known == "bf16" or known in model.quantization.lower()
    return f"{model.quantization}{bits} weights" if same else f"{model.quantization} ({known}) weights"


def layers_text(model: ModelFacts) -> str:
    """What its layers keep, in words."""
    shape = model.shape
    if shape is None:
        return "not known"
    said = []
    for layers in shape.attending:
        if layers.latent:
            said.append(f"{layers.count} latent of {layers.head_dim}")
            continue
        window = f" in a window of {layers.window}" if layers.window else ""
        said.append(f"{layers.count} with {layers.kv_heads} key heads of {layers.head_dim}{window}")
    said += [f"{layers.count} with a state" for layers in shape.state_layers]
    return ", ".join(said)


def cache_text(model: ModelFacts) -> str:
    """What a request of 8192 tokens takes of one GPU."""
    return f"{cache_of(model.shape).bytes_for(8192) / 1024**3:.2f} GiB" if model.shape else "not known"


def demand_text(demand: Demand) -> str:
    """What is to be served, in words."""
    several = f"{demand.requests} requests" if demand.requests > 1 else "a request"
    parts = [f"{several} of {demand.context} tokens"]
    if demand.kv_format != "auto":
        parts.append(f"keys and values in {demand.kv_format}")
    if demand.weights:
        parts.append(f"weights quantised to {demand.weights}")
    if demand.adapters:
        parts.append(f"{demand.adapters} adapters")
    return ", ".join(parts)


def gpus_text(gpus: Gpus) -> str:
    """`2 x H100 94GB`."""
    name = gpus.product.removeprefix("NVIDIA ").removeprefix("Tesla ").replace("-", " ") or "GPU"
    memory = f"{gpus.memory_per_gpu_gib:g}GB"
    return f"{gpus.count} x {name}" if memory.lower() in name.lower() else f"{gpus.count} x {name} {memory}"


def tokens_text(tokens: int | None) -> str:
    """`128k`; whole thousands of 1024 shortened, others as they are."""
    if not tokens:
        return "-"
    if tokens % (1024 * 1024) == 0:
        return f"{tokens // 1024 // 1024}M"
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else f"{tokens}"


def usd_text(usd: float | None) -> str:
    """`3.67`; empty where the price is not known."""
    return "" if usd is None else f"{usd:.2f}"


def _gpus(gpus: Gpus) -> dict[str, Any]:
    return {
        "product": gpus.product,
        "count": gpus.count,
        "memoryGiB": gpus.memory_gib,
        "usableGiBOfOne": round(gpus.usable_per_gpu_gib, 2),
    }
