# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito models`: which presets there are, what one is, and what it takes to serve it, before anything is paid for.

Needs no cluster. A model that the catalogue does not hold is looked up on a hub, or read from a folder. How the answers
look is in `modelviews.py`.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Annotated

import aiohttp
import typer
from rich.console import Console

from kaito.catalog.configuration import UnreadableConfig, facts_of
from kaito.catalog.fit import Demand, fit, offers
from kaito.catalog.gpus import CLOUDS, BadTable, Gpus, InstanceType, Machines, machines
from kaito.catalog.hub import Hub, HubError, web_fetch, weight_files
from kaito.catalog.models import ModelFacts, UnknownModel, catalogue
from kaito.catalog.sizing import DEFAULT_CONTEXT
from kaito.cli import layout, modelviews, push, settings
from kaito.cli.failure import UserError
from kaito.cli.get import dump

Output = Annotated[str, typer.Option("--output", "-o", help="table, yaml or json.")]
MachineFile = Annotated[
    Path | None, typer.Option("--machines", help="A YAML file with instance types and GPUs of your own.")
]
Context = Annotated[str, typer.Option("--context", "-c", help="Tokens of the longest request: 8192, 32k, max.")]
Offline = Annotated[bool, typer.Option("--offline", help="Ask no hub for models that the catalogue does not hold.")]
TOKENS = re.compile(r"(\d+(?:\.\d+)?)\s*([km]?)", re.IGNORECASE)
FACTORS = {"": 1, "k": 1024, "m": 1024 * 1024}


def group() -> typer.Typer:
    """The commands below `kaito models`; whatever else is about models belongs here too."""
    app = typer.Typer(name="models", no_args_is_help=True, help="Which models there are, and what they take.")
    app.command("list")(list_)
    app.command("show")(show)
    app.command("size")(size)
    app.command("push")(push.push)
    return app


def list_(
    word: Annotated[str | None, typer.Argument(help="Only models with this in their name.")] = None,
    *,
    gpu: Annotated[str | None, typer.Option("--gpu", help="Only models that one such GPU can serve.")] = None,
    context: Context = str(DEFAULT_CONTEXT),
    machine_file: MachineFile = None,
    output: Output = "table",
) -> None:
    """List the presets: name, size, context, and the least that serves each."""
    checked(output)
    table = machines_with(machine_file)
    demand = Demand(context=tokens_of(context, None))
    on = one_gpu(gpu, table) if gpu else None
    found = [model for model in catalogue().models if (word or "").lower() in " ".join(names_of(model)).lower()]
    if on is not None:
        found = [model for model in found if fit(model, on, demand).fits]
    console = Console()
    if output != "table":
        dump({"models": [modelviews.summary(model) for model in found]}, output)
    elif found:
        least = {model.id: offers(model, table.instance_types(), demand)[:1] for model in found}
        layout.show(console, modelviews.overview(found, least, demand, layout.width_of(console)))
    else:
        what = f" with {word!r} in its name" if word else ""
        where = f" that one {on.product} can serve with {demand.context} tokens" if on else ""
        layout.show(console, layout.paragraph(f"No preset{what}{where}. All presets: kaito models list"))


def show(
    model: Annotated[str, typer.Argument(help="A preset, a Hugging Face id, or a folder with config.json.")],
    *,
    offline: Offline = False,
    output: Output = "table",
) -> None:
    """Show what is known of a model, and how its engine is started."""
    checked(output)
    found = find(model, offline=offline)
    if output != "table":
        dump(modelviews.record(found), output)
        return
    console = Console()
    layout.show(console, modelviews.detail(found, layout.width_of(console)))


def size(
    model: Annotated[str, typer.Argument(help="A preset, a Hugging Face id, or a folder with config.json.")],
    *,
    gpu: Annotated[str | None, typer.Option("--gpu", help="On GPUs of this name, e.g. 'A100 80GB'.")] = None,
    count: Annotated[int, typer.Option("--gpus", help="How many of them, in one machine.", min=1, max=64)] = 1,
    instance_type: Annotated[
        str | None, typer.Option("--instance-type", "-t", help="On this machine type of a cloud.")
    ] = None,
    nodes: Annotated[int, typer.Option("--nodes", help="How many such machines.", min=1, max=64)] = 1,
    cloud: Annotated[str | None, typer.Option("--cloud", help="Offer only machines of azure, aws, gcp or arc.")] = None,
    context: Context = str(DEFAULT_CONTEXT),
    requests: Annotated[int, typer.Option("--requests", help="Requests of that length at once.", min=1)] = 1,
    kv_cache: Annotated[str, typer.Option("--kv-cache-dtype", help="auto or fp8.")] = "auto",
    quantization: Annotated[
        str | None, typer.Option("--quantization", help="Quantise 16-bit weights while loading: fp8, int8 or nf4.")
    ] = None,
    adapters: Annotated[int, typer.Option("--adapters", help="LoRA adapters that are loaded at once.", min=0)] = 0,
    utilization: Annotated[
        float | None, typer.Option("--gpu-memory-utilization", help="Share of a GPU's memory.", min=0.1, max=1.0)
    ] = None,
    machine_file: MachineFile = None,
    offline: Offline = False,
    output: Output = "table",
) -> None:
    """Say what a model takes: whether it fits, where the memory goes, the price, and what would fit instead."""
    checked(output)
    table = machines_with(machine_file)
    found = find(model, offline=offline)
    if found.weights_gib is None or found.shape is None:
        raise UserError(f"Nothing is known of {found.id}.", "Name a folder with its config.json and weights.")
    demand = Demand(
        context=tokens_of(context, found.token_limit),
        requests=requests,
        kv_format=_one_of("--kv-cache-dtype", kv_cache, ("auto", "fp8")),  # type: ignore[arg-type]
        weights=_one_of("--quantization", quantization, ("fp8", "int8", "nf4")) if quantization else None,  # type: ignore[arg-type]
        adapters=adapters,
        utilization=utilization,
    )
    on, kind = machine_of(gpu, count, instance_type, table)
    known = {one.cloud for one in table.instance_types()} | set(CLOUDS)
    wanted = _one_of("--cloud", cloud, tuple(sorted(known))) if cloud else kind.cloud if kind else None
    found_offers = offers(found, table.instance_types(wanted), demand)
    result = fit(found, on, demand, nodes=nodes) if on is not None else None
    if output != "table":
        dump(modelviews.sizing(found, demand, result, kind, found_offers), output)
        return
    console = Console()
    layout.show(console, modelviews.report(found, demand, result, kind, found_offers, layout.width_of(console)))


def find(name: str, *, offline: bool) -> ModelFacts:
    """The model of that name: of the catalogue, of a folder, or of a hub. Raises UserError."""
    folder = Path(name).expanduser()
    if name.startswith((".", "/", "~")) or folder.is_dir():
        return of_folder(folder)
    try:
        found = catalogue().find(name)
    except UnknownModel as error:
        raise UserError(f"{error}", "All presets: kaito models list") from error
    if found.is_known:
        return found
    try:
        return asyncio.run(_ask(found.id, offline=offline))
    except HubError as error:
        raise UserError(f"{str(error)[:1].upper()}{str(error)[1:]}.", _next_step(error)) from error


def of_folder(folder: Path) -> ModelFacts:
    """The facts of a model that lies in a folder, laid out as on a hub. Raises UserError."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        files = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
        weights, layout_ = weight_files(files)
        total = sum(files[name] for name in weights) or None
        name = folder.resolve().name
        return facts_of(name, config, weights_bytes=total, format_=layout_)
    except (OSError, ValueError, UnreadableConfig) as error:
        raise UserError(f"{folder} is no model: {error}.", "Name a folder with config.json and the weights.") from error


async def _ask(id_: str, *, offline: bool) -> ModelFacts:
    environment = settings.hub()
    async with aiohttp.ClientSession(trust_env=True) as session:
        hub = Hub(
            web_fetch(session),
            environment.endpoint,
            token=environment.token,
            cache=settings.read().cache_dir / "models",
            offline=offline or environment.offline,
        )
        return await hub.refreshed(id_)


def _next_step(error: HubError) -> str:
    return {
        "missing": "Check the spelling; for a private model set HF_TOKEN.",
        "gated": "Set HF_TOKEN to a token of an account that may read it.",
        "busy": f"Try again in {error.retry_after_s or 60:.0f} seconds; with HF_TOKEN more is allowed.",
        "unreachable": "Check the network and HF_ENDPOINT, or name a folder with the model's config.json.",
        "unusable": "Name a model that an engine can serve: config.json and weights in safetensors.",
    }[error.why]


def machine_of(
    gpu: str | None, count: int, type_: str | None, table: Machines
) -> tuple[Gpus | None, InstanceType | None]:
    """The GPUs that are asked about, and the machine type where one is. Raises UserError."""
    if gpu and type_:
        raise UserError("--gpu and --instance-type do not go together.", "Name a GPU or a machine type.")
    if gpu:
        return one_gpu(gpu, table, count), None
    if type_ is None:
        return None, None
    found = table.instance_type(type_)
    if found is None:
        names = [one.name for one in table.instance_types()]
        near = modelviews.near(type_, names)
        raise UserError(f"No table has a machine type {type_}.", near or "Name a GPU with --gpu, or --machines FILE.")
    return found.gpus, found


def one_gpu(name: str, table: Machines, count: int = 1) -> Gpus:
    """So many GPUs of that name. Raises UserError where none or several are meant."""
    found = table.gpus_like(name)
    if len(found) == 1:
        return found[0].gpus(count)
    if not found:
        near = modelviews.near(name, [product.product for product in table.products])
        raise UserError(f"No GPU is called {name}.", near or "GPUs are called as in: 'A100 80GB', H200, L4, T4.")
    choices = ", ".join(f"'{product.product}' ({product.memory_gib:g} GiB)" for product in found)
    raise UserError(f"{name} may be any of {choices}.", "Say which, by its name or its memory: 'A100 80GB'.")


def machines_with(file: Path | None) -> Machines:
    """The tables, with a user's own added. Raises UserError."""
    if file is None:
        return machines()
    try:
        return machines().extended(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}.", "Name a YAML file with --machines.") from error
    except BadTable as error:
        raise UserError(f"{file}: {error}.", "docs/sizing.md shows how such a file looks.") from error


def tokens_of(text: str, limit: int | None) -> int:
    """A number of tokens as people write it: 8192, 8k, 0.5M, or max for all that the model was made for."""
    if text.strip().lower() == "max" and limit is not None:
        return limit
    match = TOKENS.fullmatch(text.strip())
    tokens = int(float(match[1]) * FACTORS[match[2].lower()]) if match else 0
    if tokens < 1:
        raise UserError(f"--context {text} is no number of tokens.", "Write it as 8192, 32k or max.")
    return tokens


def names_of(model: ModelFacts) -> tuple[str, ...]:
    """All that a user may call it."""
    return (model.id, *model.aliases)


def checked(output: str) -> None:
    """Refuse an output format that there is not."""
    _one_of("-o", output, ("table", "yaml", "json"))


def _one_of(option: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise UserError(f"{option} {value} is not known.", f"Choose {', '.join(choices[:-1])} or {choices[-1]}.")
    return value
