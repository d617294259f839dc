# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Weights are found by model id, in the order of the folders, before anything heavy is imported."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from kaito.api.contracts import ModelSource
from kaito.runtime.failure import Failed, failure_line, termination_message
from kaito.runtime.serve.prepare import check_whole
from kaito.runtime.serve.tensors import INDEX
from kaito.runtime.settings import Settings
from kaito.runtime.weights import find_local, resolve

ID = "microsoft/Phi-3-mini-4k-instruct"


def put_model(folder: Path, *, complete: bool = True) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    if complete:
        (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    "layout",
    [
        "microsoft/Phi-3-mini-4k-instruct",
        "Microsoft/phi-3-mini-4k-INSTRUCT",
        "microsoft--Phi-3-mini-4k-instruct",
        "microsoft--phi-3-mini-4k-instruct",
        "models--microsoft--Phi-3-mini-4k-instruct/snapshots/0123",
    ],
)
def test_every_layout_is_found(tmp_path: Path, layout: str) -> None:
    place = put_model(tmp_path / layout)
    assert find_local([tmp_path / "missing", tmp_path], ID) == (place, [])


def test_the_first_complete_folder_wins(tmp_path: Path) -> None:
    put_model(tmp_path / "a" / ID, complete=False)
    place = put_model(tmp_path / "b" / ID)
    put_model(tmp_path / "c" / ID)
    found, problems = find_local([tmp_path / "a", tmp_path / "b", tmp_path / "c"], ID)
    assert found == place
    assert problems == [f"{tmp_path / 'a' / ID} lacks *.safetensors"]


async def test_a_models_own_folder_is_the_only_place_that_is_looked_at(tmp_path: Path) -> None:
    put_model(tmp_path / "downloads" / ID)
    source = ModelSource(id=ID, folder=str(tmp_path / "own"), download_dir=str(tmp_path / "downloads"))
    with pytest.raises(Failed) as raised:
        await resolve(source, Settings())
    assert f"{tmp_path / 'own'} lacks config.json and *.safetensors" in raised.value.failure.message
    assert "kaito.sh/use-local-weights" in raised.value.failure.next_step
    put_model(tmp_path / "own")
    assert (await resolve(source, Settings())).model == str(tmp_path / "own")


async def test_local_folders_come_before_the_download_folder(tmp_path: Path) -> None:
    put_model(tmp_path / "downloads" / ID)
    local = put_model(tmp_path / "local" / ID)
    source = ModelSource(id=ID, local_dirs=(str(tmp_path / "local"),), download_dir=str(tmp_path / "downloads"))
    assert (await resolve(source, Settings())).model == str(local)
    weights = await resolve(source.model_copy(update={"local_dirs": ()}), Settings())
    assert weights.local and weights.model == str(tmp_path / "downloads" / ID)


async def test_folders_are_looked_up_below_the_pods_root(tmp_path: Path) -> None:
    place = put_model(tmp_path / "mnt" / "weights" / ID)
    source = ModelSource(id=ID, local_dirs=("/mnt/weights",), offline=True)
    assert (await resolve(source, Settings(root=tmp_path))).model == str(place)


@pytest.mark.parametrize(
    ("model", "step"),
    [(ID, f"DIR/{ID}/"), ("kaito/demo-phi-3", "kaito-runtime demo-model")],
)
async def test_nothing_found_says_so_and_what_to_do_without_naming_folders_of_the_pod(
    tmp_path: Path, model: str, step: str
) -> None:
    source = ModelSource(id=model, local_dirs=(str(tmp_path),), download_dir="/downloads", offline=True)
    with pytest.raises(Failed) as error:
        await resolve(source, Settings())
    failure = error.value.failure
    assert failure.reason == "ModelWeightsNotFound"
    assert failure.message.startswith(f"No weights of {model} on this machine") and str(tmp_path) not in failure.message
    assert step in failure.next_step
    assert "\n" not in failure_line(failure)


@asynccontextmanager
async def hub(*statuses: int) -> AsyncIterator[tuple[str, list[str]]]:
    """A hub that answers with these one after the other, the last one for ever, and wants to be asked again at once."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        status = statuses[min(len(asked), len(statuses)) - 1]
        return web.json_response({}, status=status, headers={"Retry-After": "0"})

    application = web.Application()
    application.router.add_get("/api/models/{org}/{name}", answer)
    async with TestServer(application) as server:
        yield str(server.make_url("")).rstrip("/"), asked


async def test_a_busy_hub_is_asked_again_when_it_says(tmp_path: Path) -> None:
    source = ModelSource(id=ID, download_dir=str(tmp_path))
    async with hub(429, 503, 200) as (url, asked):
        assert (await resolve(source, Settings(hub_endpoint=url))).model == ID
    assert len(asked) == 3
    async with hub(429) as (url, asked):
        with pytest.raises(Failed) as error:
            await resolve(source, Settings(hub_endpoint=url))
    assert len(asked) == 3 and "429, too many requests" in error.value.failure.message
    assert "HF_TOKEN" in error.value.failure.next_step


def put_tensors(file: Path, *, lost: int = 0) -> None:
    """A safetensors file with one tensor of 64 bytes, of which so many are lost."""
    head = json.dumps({"a": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}).encode()
    file.write_bytes(struct.pack("<Q", len(head)) + head + bytes(64 - lost))


def test_whole_weights_are_taken_and_damaged_ones_named(tmp_path: Path) -> None:
    one, two = tmp_path / "model-1.safetensors", tmp_path / "model-2.safetensors"
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": one.name, "b": two.name}}))
    put_tensors(one)
    put_tensors(two)
    check_whole(tmp_path, ID)
    for spoil, said in (
        (lambda: put_tensors(two, lost=3), "model-2.safetensors is incomplete or damaged: it has 61 bytes"),
        (lambda: two.write_bytes(b"garbage that is no tensor"), "model-2.safetensors is no safetensors file"),
        (lambda: two.write_bytes(b""), "model-2.safetensors is no safetensors file"),
        (two.unlink, f"model-2.safetensors is missing, which {INDEX} names"),
    ):
        spoil()
        with pytest.raises(Failed) as error:
            check_whole(tmp_path, ID)
        failure = error.value.failure
        assert failure.reason == "ModelWeightsNotFound" and said in failure.message and failure.next_step


def test_long_last_words_still_are_json_that_fits() -> None:
    failure = Failed("R", "ä" * 9000, "step").failure
    text = termination_message(failure)
    assert len(text.encode()) <= 4096
    assert json.loads(text)["next_step"] == "step"


def test_the_token_is_not_shown() -> None:
    assert "hf_x" not in repr(Settings(hub_token="hf_x", environment={"HF_TOKEN": "hf_x"}))
