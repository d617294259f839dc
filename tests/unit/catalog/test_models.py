# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The catalogue: complete, and found by every name that users write."""

from __future__ import annotations

import re

import pytest

from kaito.catalog.models import Catalogue, ModelFacts, UnknownModel, catalogue

MODELS = catalogue().models


def test_the_catalogue_holds_sixty_published_presets_and_the_one_made_here() -> None:
    assert len([model for model in MODELS if not model.built_locally]) == 60
    assert [model.id for model in MODELS if model.built_locally] == ["kaito/demo-phi-3"]
    assert sum(len(model.aliases) for model in MODELS if not model.built_locally) == 25


@pytest.mark.parametrize("model", MODELS, ids=lambda model: str(model.id))
def test_every_record_is_complete_and_found_by_its_names(model: ModelFacts) -> None:
    assert model.is_known
    assert model.license
    assert model.architecture
    assert model.token_limit
    assert model.shape
    assert model.revision is None or re.fullmatch("[0-9a-f]{40}", model.revision)
    for name in (model.id, model.id.upper(), model.name, *model.aliases):
        assert catalogue().find(name) is model


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("phi-3-mini-128k-instruct", "microsoft/Phi-3-mini-128k-instruct"),
        ("PHI-4", "microsoft/phi-4"),
        ("mistral-7b", "mistralai/Mistral-7B-v0.3"),
        ("gemma-3-4b-instruct", "google/gemma-3-4b-it"),
        ("ministral-3-8b-instruct", "mistralai/Ministral-3-8B-Instruct-2512"),
        ("qwen/qwen2.5-coder-7b-instruct", "Qwen/Qwen2.5-Coder-7B-Instruct"),
        ("kaito-demo", "kaito/demo-phi-3"),
    ],
)
def test_a_preset_is_found_whatever_its_case(name: str, id_: str) -> None:
    assert catalogue().find(name).id == id_


def test_facts_of_a_preset() -> None:
    deepseek = catalogue().find("deepseek-r1-0528")
    assert (deepseek.weights_gib, deepseek.token_limit, deepseek.quantization) == (641.3, 163840, "fp8")
    assert deepseek.shape is not None
    assert (deepseek.shape.kv_lora_rank, deepseek.shape.qk_rope_head_dim) == (512, 64)
    assert deepseek.revision == "4236a6af538feda4548eca9ab308586007567f52"
    assert catalogue().find("llama-3.1-8b-instruct").gated
    assert catalogue().find("Qwen/Qwen3-8B-AWQ").quantization_bits == 4


def test_twenty_presets_were_tested_with_transformers_and_ten_with_tuning() -> None:
    published = [model for model in MODELS if not model.built_locally]
    assert sum(1 for model in published if model.transformers) == 20
    assert sum(1 for model in published if model.tuning) == 10


def test_the_served_name_is_the_last_part_of_the_id_in_lower_case() -> None:
    assert catalogue().find("mistral-7b").served_name == "mistral-7b-v0.3"
    assert catalogue().find("Some-Org/Some-Model").served_name == "some-model"


def test_any_hub_id_is_a_model_of_which_nothing_is_known() -> None:
    model = catalogue().find("Some-Org/Some.Model_1")
    assert model == ModelFacts(id="Some-Org/Some.Model_1")
    assert not model.is_known
    assert model.runtimes == ("vllm", "transformers")


@pytest.mark.parametrize("name", ["", "org/", "/model", "a/b/c", "../model", "org/..", "org/mo del", "a\\b", "org/a\n"])
def test_what_could_not_be_a_hub_id_is_unknown(name: str) -> None:
    with pytest.raises(UnknownModel):
        catalogue().find(name)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("phi-3-mini-4k-instrct", "phi-3-mini-4k-instruct"),
        ("llama-3.1-8b", "llama-3.1-8b-instruct"),
        ("Qwen2.5-Coder-7B", "qwen2.5-coder-7b-instruct"),
        ("kaitodemo", "kaito-demo"),
    ],
)
def test_a_misspelt_preset_is_answered_with_the_nearest_names(name: str, suggestion: str) -> None:
    with pytest.raises(UnknownModel) as raised:
        catalogue().find(name)
    assert suggestion in raised.value.suggestions
    assert len(raised.value.suggestions) <= 3
    assert f"there is no preset {name!r}: did you mean" in str(raised.value)
    assert suggestion in (catalogue().problem(name) or "")


def test_a_name_like_no_other_is_answered_with_how_to_go_on() -> None:
    assert catalogue().problem("xyzzy") == (
        "there is no preset 'xyzzy': presets are, among others, kaito-demo, phi-4, phi-4-mini-instruct, "
        "deepseek-r1-distill-llama-8b. Any Hugging Face model can be written as org/model."
    )
    assert catalogue().problem("phi-4") is None


def test_a_retired_preset_is_answered_with_its_id() -> None:
    assert catalogue().problem("phi-2") == (
        "preset 'phi-2' is no longer supported; write 'microsoft/phi-2' to run the model untested, by its id"
    )
    assert catalogue().problem("microsoft/phi-2") is None


def test_every_model_is_listed_under_the_name_that_users_write() -> None:
    names = catalogue().names()
    assert len(names) == len(MODELS)
    assert {"kaito-demo", "phi-4", "Qwen/Qwen3.5-2B"} <= set(names)


def test_two_models_cannot_share_a_name() -> None:
    with pytest.raises(ValueError, match="two models of the catalogue are called 'b'"):
        Catalogue([ModelFacts(id="a/b"), ModelFacts(id="c/d", aliases=("b",))])


@pytest.mark.parametrize(
    ("preset", "full", "windows"),
    [
        ("gpt-oss-120b", (18, 8, 64), (18, 128)),  # arXiv 2508.10925, section 2: alternating layers, a window of 128
        ("gemma-3-27b-instruct", (10, 16, 128), (52, 1024)),  # arXiv 2503.19786, section 2: five of six, 1024
        ("deepseek-r1-0528", (61, 1, 576), None),  # arXiv 2412.19437, section 4.2: 512 and a rope part of 64
        ("llama-3.3-70b-instruct", (80, 8, 128), None),  # arXiv 2407.21783, table 3
    ],
)
def test_what_layers_keep_is_as_their_authors_published(
    preset: str, full: tuple[int, int, int], windows: tuple[int, int] | None
) -> None:
    shape = catalogue().find(preset).shape
    assert shape is not None
    whole, *narrow = shape.attending
    assert (whole.count, whole.kv_heads, whole.head_dim) == full
    assert [(layers.count, layers.window) for layers in narrow] == ([windows] if windows else [])


def test_layers_of_every_kind_are_no_more_than_there_are() -> None:
    for model in MODELS:
        assert model.shape is not None
        counted = sum(layers.count for layers in (*model.shape.attending, *model.shape.state_layers))
        assert counted <= model.shape.layers, model.id
        assert model.loaded_gib is None or model.loaded_gib < (model.weights_gib or 0)
