# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Finds a model's weights before anything heavy is imported: local folders, the download folder, then the hub.

A local folder is laid out by model id: `DIR/<org>/<name>/` or `DIR/<org>--<name>/`, in any case, and holds
`config.json` and `*.safetensors`. The hub is only asked whether it would answer; the engine downloads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from kaito.api.contracts import ModelSource
from kaito.api.names import REASON_WEIGHTS_NOT_FOUND, USE_LOCAL_WEIGHTS_ANNOTATION
from kaito.runtime.artifacts.transport import LONGEST_PAUSE_S, retry_after_s
from kaito.runtime.failure import Failed
from kaito.runtime.settings import Settings

HUB_TIMEOUT_S = 4.0
HUB_TRIES = 3
BUSY_STEP = (
    "It is asked again when the container starts again. With an HF_TOKEN, in the Secret that "
    "presetOptions.modelAccessSecret names, it may be asked more often."
)
BUSY = frozenset({429, 502, 503, 504})
RATE_LIMITED = "asked too often from here (429, too many requests)"
DEMO_ORGANISATION = "kaito"


@dataclass(frozen=True, slots=True)
class Weights:
    """Where the engine takes the model from."""

    model: str
    """A folder, or the id for the engine to download."""
    local: bool
    download_dir: Path | None = None
    revision: str | None = None


def child_named(folder: Path, name: str) -> Path | None:
    """The entry of the folder with this name in any case, the exact one first; None when there is none."""
    exact = folder / name
    if exact.is_dir():
        return exact
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return None
    return next((entry for entry in entries if entry.name.casefold() == name.casefold() and entry.is_dir()), None)


def candidates(folder: Path, model_id: str) -> list[Path]:
    """The folders below this one that are named after the model, however complete they are."""
    found: list[Path] = []
    nested: Path | None = folder
    for part in model_id.split("/"):
        nested = child_named(nested, part) if nested is not None else None
    flat = child_named(folder, model_id.replace("/", "--"))
    cached = child_named(folder, "models--" + model_id.replace("/", "--"))
    found.extend(place for place in (nested, flat) if place is not None)
    if cached is not None and (cached / "snapshots").is_dir():
        found.extend(sorted((cached / "snapshots").iterdir()))
    return found


def lacks(place: Path) -> str | None:
    """What a model folder still needs, in words; None when it is complete."""
    missing = [] if (place / "config.json").is_file() else ["config.json"]
    if not any(place.glob("*.safetensors")):
        missing.append("*.safetensors")
    return " and ".join(missing) or None


def find_local(folders: Sequence[Path], model_id: str) -> tuple[Path | None, list[str]]:
    """The first complete folder of the model, and what was wrong with incomplete ones on the way."""
    problems: list[str] = []
    for folder in folders:
        for place in candidates(folder, model_id):
            missing = lacks(place)
            if missing is None:
                return place, problems
            problems.append(f"{place} lacks {missing}")
    return None, problems


async def ask_hub(source: ModelSource, settings: Settings) -> str | None:
    """Why the hub cannot give the model, in words; None when it can. One that is busy is asked again when it says."""
    for attempt in range(HUB_TRIES):
        status, wait_s = await _hub_status(source, settings)
        if status not in BUSY or attempt == HUB_TRIES - 1:
            break
        await asyncio.sleep(min(2.0**attempt if wait_s is None else wait_s, LONGEST_PAUSE_S))
    if status is None:
        return f"the hub {settings.hub_endpoint} cannot be reached"
    if status in (401, 403):
        return f"the hub {settings.hub_endpoint} refuses access (no such model, or a gated one)"
    if status == 404:
        return f"the hub {settings.hub_endpoint} does not know this model"
    if status == 429:
        return f"the hub {settings.hub_endpoint} is {RATE_LIMITED}"
    return None if status < 400 else f"the hub {settings.hub_endpoint} answered with status {status}"


async def _hub_status(source: ModelSource, settings: Settings) -> tuple[int | None, float | None]:
    """What the hub answers about the model, None when it does not, and the seconds after which it wants to be asked
    again, where it says so."""
    headers = {"Authorization": f"Bearer {settings.hub_token}"} if settings.hub_token else {}
    url = f"{settings.hub_endpoint}/api/models/{source.id}"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HUB_TIMEOUT_S), trust_env=True) as session,
            session.get(url, headers=headers) as response,
        ):
            return response.status, retry_after_s(response.headers.get("Retry-After"), time.time())
    except (TimeoutError, aiohttp.ClientError, OSError):
        return None, None


async def hub_bytes(model_id: str, revision: str | None, settings: Settings) -> int | None:
    """How many bytes the hub's files of a model have together, folders included; None when it does not say."""
    headers = {"Authorization": f"Bearer {settings.hub_token}"} if settings.hub_token else {}
    url = f"{settings.hub_endpoint}/api/models/{model_id}/revision/{revision or 'main'}?blobs=true"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30), trust_env=True) as session,
            session.get(url, headers=headers) as response,
        ):
            files = (await response.json()).get("siblings") if response.status == 200 else None
        return sum(int(file.get("size") or 0) for file in files) or None if files else None
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError, AttributeError, TypeError):
        return None


async def resolve(source: ModelSource, settings: Settings) -> Weights:
    """Where to take the weights from; raises Failed (ModelWeightsNotFound) when there is no way to get them."""
    if source.folder is not None:
        return _in_its_folder(source, settings.path(source.folder))
    download_dir = settings.path(source.download_dir)
    folders = [settings.path(folder) for folder in source.local_dirs]
    place, problems = find_local([*folders, download_dir], source.id)
    if place is not None:
        return Weights(model=str(place), local=True)
    trouble = "the hub was not asked (offline)" if source.offline else await ask_hub(source, settings)
    if trouble is None:
        return Weights(source.id, local=False, download_dir=download_dir, revision=source.revision)
    detail = "; ".join([*problems, trouble])
    raise Failed(
        REASON_WEIGHTS_NOT_FOUND,
        f"No weights of {source.id} on this machine, and {detail}.",
        BUSY_STEP if RATE_LIMITED in trouble else next_step(source, refused="refuses" in trouble),
    )


def _in_its_folder(source: ModelSource, place: Path) -> Weights:
    missing = lacks(place)
    if missing is None:
        return Weights(model=str(place), local=True)
    step = f"Put {source.id} there on every such node, or take the annotation {USE_LOCAL_WEIGHTS_ANNOTATION} out."
    raise Failed(REASON_WEIGHTS_NOT_FOUND, f"The node's folder {source.folder} lacks {missing}.", step)


def next_step(source: ModelSource, *, refused: bool) -> str:
    """What the user can do about missing weights."""
    if source.id.split("/")[0].casefold() == DEMO_ORGANISATION:
        return "Build the demo model with `kaito-runtime demo-model --out DIR` and start with `kaito up --weights DIR`."
    step = f"Put them into DIR/{source.id}/ and start with `kaito up --weights DIR`"
    if refused:
        return step + ", or name a Secret with an HF_TOKEN that may read it in presetOptions.modelAccessSecret."
    return step + ", or let this machine reach the hub."
