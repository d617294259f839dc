# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito models`: what it prints for people and for programs, and what it says when asked for what there is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text
from typer.testing import CliRunner, Result

from kaito.catalog.fit import Demand, fit, offers
from kaito.catalog.gpus import instance_type, instance_types, machines
from kaito.catalog.models import catalogue
from kaito.cli import modelviews
from kaito.cli.failure import UserError
from kaito.cli.main import application
from kaito.cli.models import find, of_folder, one_gpu, tokens_of

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
}


def models(*words: str) -> Result:
    return CliRunner().invoke(application(), ["models", *words])


def data(*words: str) -> Any:
    answered = models(*words, "-o", "json")
    assert answered.exit_code == 0, answered.output
    return json.loads(answered.stdout)


def text(lines: list[Text]) -> str:
    return "\n".join(line.plain for line in lines)


def test_the_list_has_every_preset_and_the_least_machine_for_it() -> None:
    lines = models("list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "GIB", "CONTEXT", "LEAST", "GPUS", "USD/H"]
    rows = {line.split()[0]: line for line in lines[1:62]}
    assert len(rows) == 61
    assert rows["gpt-oss-120b"].split()[1:] == ["60.8", "128k", "1", "x", "A100", "80GB", "3.67"]


def test_the_list_can_be_narrowed_by_name_and_by_gpu() -> None:
    assert [one["aliases"] for one in data("list", "LLAMA-3")["models"]] == [
        ["llama-3.1-8b-instruct"],
        ["llama-3.3-70b-instruct"],
    ]
    on_t4 = {one["id"] for one in data("list", "--gpu", "T4", "--context", "2k")["models"]}
    assert "microsoft/Phi-3-mini-4k-instruct" in on_t4
    assert "openai/gpt-oss-120b" not in on_t4
    assert "All presets: kaito models list" in models("list", "xyzzy").stdout


def test_a_model_is_shown_with_what_follows_from_it() -> None:
    shown = models("show", "gpt-oss-120b").stdout
    assert "18 with 8 key heads of 64, 18 with 8 key heads of 64 in a window of 128" in shown
    assert data("show", "deepseek-ai/DeepSeek-V3.2")["engine"]["tool_call_parser"] == "deepseek_v32"
    assert "The hub asks for a token" in models("show", "llama-3.1-8b-instruct").stdout


def test_sizing_for_programs_says_all_that_people_see() -> None:
    said = data("size", "llama-3.3-70b-instruct", "-t", "standard_nc96ads_a100_v4", "-c", "32k", "--requests", "4")
    found = said["fit"]
    assert (found["fits"], found["maxContext"], found["usdPerHour"]) == (True, 131072, 14.692)
    assert found["parallelism"] == {"tensor": 4, "pipeline": 1, "data": 1}
    assert sum(found["gibOfOneGPU"].values()) == pytest.approx(79.14, abs=0.01)
    assert said["demand"]["context"] == 32768
    # Two H100 with 94 GB are cheaper and hold a single request of that length.
    assert said["offers"][0]["instanceType"] == "Standard_NC96ads_A100_v4"
    assert said["offers"][0]["priceOf"] == {"region": "eastus", "as_of": "2025-07-01"}


@pytest.mark.parametrize("width", [None, 80, 120])
def test_the_report_fits_the_terminal(width: int | None) -> None:
    model = catalogue().find("deepseek-r1-0528")
    kind = instance_type("Standard_ND96isr_H100_v5")
    assert kind is not None
    demand = Demand(context=65536, requests=8, kv_format="fp8")
    found = offers(model, instance_types(), demand)
    lines = modelviews.report(model, demand, fit(model, kind.gpus, demand), kind, found, width)
    assert "it does not fit." in text(lines)
    assert "Standard_ND96isr_H200_v5" in text(lines)
    if width is not None:
        assert max(line.cell_len for line in lines) <= width


def test_what_is_cheaper_is_offered_where_it_fits_and_all_where_it_does_not() -> None:
    assert "CHEAPER" in models("size", "phi-4-mini-instruct", "-t", "Standard_ND96isr_H100_v5").stdout
    assert "Nothing cheaper of azure serves it." in models("size", "llama-3.3-70b-instruct", "-t",
                                                           "Standard_NC80adis_H100_v5").stdout  # fmt: skip
    assert "WHAT SERVES IT" in models("size", "llama-3.3-70b-instruct", "-t", "Standard_NC24ads_A100_v4").stdout
    assert "No single machine of arc in the tables" in models("size", "phi-4", "-t", "Standard_NC4_A2").stdout


@pytest.mark.parametrize(
    ("words", "message", "step"),
    [
        (["size", "phi-4", "--gpu", "A100"], "A100 may be any of 'NVIDIA A100-SXM4-40GB' (40 GiB)", "A100 80GB"),
        (["size", "phi-4", "--gpu", "Abacus"], "No GPU is called Abacus.", "GPUs are called as in"),
        (["size", "phi-4", "-t", "g5.12xlrge"], "No table has a machine type g5.12xlrge.", "Did you mean g5.12xlarge"),
        (["size", "phi-4", "-t", "g5.xlarge", "--gpu", "T4"], "do not go together", "Name a GPU or a machine type"),
        (["size", "phi-4", "-c", "lots"], "--context lots is no number of tokens.", "Write it as 8192, 32k or max."),
        (["size", "phi-4", "--cloud", "moon"], "--cloud moon is not known.", "Choose arc, aws, azure"),
        (["size", "phi-4", "--kv-cache-dtype", "int3"], "--kv-cache-dtype int3 is not known.", "Choose auto or fp8."),
        (["size", "phi-5"], "there is no preset 'phi-5'", "All presets: kaito models list"),
        (["list", "-o", "xml"], "-o xml is not known.", "Choose table, yaml or json."),
        (["size", "./nowhere"], "nowhere is no model", "Name a folder with config.json"),
        (["size", "phi-4", "--machines", "/does/not/exist"], "/does/not/exist cannot be read", "--machines"),
        (["show", "org/model", "--offline"], "Nothing is known of org/model", "name a folder"),
    ],
)
def test_what_there_is_not_is_answered_with_the_next_step(words: list[str], message: str, step: str) -> None:
    failure = models(*words).exception
    assert isinstance(failure, UserError)
    assert message in str(failure)
    assert step in failure.next_step


@pytest.mark.parametrize(
    ("said", "limit", "tokens"),
    [("8192", None, 8192), ("32k", None, 32768), ("0.5M", None, 524288), ("max", 4096, 4096), (" 8K ", None, 8192)],
)
def test_contexts_as_people_write_them(said: str, limit: int | None, tokens: int) -> None:
    assert tokens_of(said, limit) == tokens


@pytest.mark.parametrize("said", ["", "0", "-1", "max", "k", "8 thousand"])
def test_contexts_that_are_none(said: str) -> None:
    with pytest.raises(UserError):
        tokens_of(said, None)


def test_a_folder_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(b"0" * 1024 * 1024 * 20)
    found = find(str(tmp_path), offline=True)
    assert (found.weights_gib, found.token_limit, found.reviewed) == (0.02, 40960, False)
    assert data("size", str(tmp_path), "--gpu", "T4")["fit"]["fits"]


@pytest.mark.parametrize(
    "make", [lambda folder: None, lambda folder: (folder / "config.json").write_text("{}")], ids=["nothing", "empty"]
)
def test_a_folder_without_a_model_says_so(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match="is no model"):
        of_folder(tmp_path)


def test_gpus_by_number() -> None:
    assert (one_gpu("l40s", machines(), 4).count, one_gpu("l40s", machines(), 4).memory_gib) == (4, 192)
