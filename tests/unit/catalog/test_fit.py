# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What fits where: worked out by hand for large models, and against the memory profiles that vLLM printed on GPUs."""

from __future__ import annotations

import pytest

from kaito.catalog.fit import (
    Demand,
    batch_requests,
    batch_tokens,
    fit,
    instead,
    least_gpus,
    offers,
    stored_as,
    weights_gib,
)
from kaito.catalog.gpus import Gpus, instance_type, instance_types, machines
from kaito.catalog.models import ModelFacts, Shape, catalogue

LLAMA_8B = catalogue().find("llama-3.1-8b-instruct")
LLAMA_70B = catalogue().find("llama-3.3-70b-instruct")
QWEN3_235B_FP8 = ModelFacts(
    id="Qwen/Qwen3-235B-A22B-FP8",
    weights_gib=220.2,
    architecture="Qwen3MoeForCausalLM",
    token_limit=40960,
    quantization="fp8",
    shape=Shape(
        layers=94, hidden_size=4096, heads=64, kv_heads=4, head_dim=128, vocab_size=151936, experts_per_token=8
    ),
)


def gpus_of(name: str) -> Gpus:
    found = instance_type(name)
    assert found is not None
    return found.gpus


def of(name: str, count: int = 1) -> Gpus:
    (product,) = machines().gpus_like(name)
    return product.gpus(count)


@pytest.mark.parametrize(
    ("model", "gpus", "share", "printed_gib"),
    [
        # https://github.com/vllm-project/vllm/pull/10511, and a profile of an A100 80GB with the same model
        (LLAMA_8B, of("H100 80GB"), 0.9, 53.29),
        (LLAMA_8B, of("A100 80GB"), 0.9, 54.93),
        # of a 24 GB GPU with 2048 tokens to a batch
        (LLAMA_8B, of("A10G"), 0.9, 4.60),
        # https://github.com/vllm-project/vllm/issues/21348
        (QWEN3_235B_FP8, of("H100 80GB", 4), 0.9, 8.11),
    ],
    ids=["8B on H100", "8B on A100", "8B on A10G", "235B on four H100"],
)
def test_vllm_had_more_room_for_keys_and_values_than_is_promised(
    model: ModelFacts, gpus: Gpus, share: float, printed_gib: float
) -> None:
    found = fit(model, gpus, Demand(utilization=share))
    assert 0.9 * printed_gib - 2.0 <= found.kv_gib <= printed_gib


def test_llama_70b_on_four_a100() -> None:
    found = fit(LLAMA_70B, gpus_of("Standard_NC96ads_A100_v4"), Demand(context=131072))
    parts = {part.name: part.gib for part in found.parts}
    # 131.42 GiB x 1.02 over four GPUs; 16 x 2048 x 8192 x 2 bytes, and logits of 256 requests twice in 32 bits
    assert parts["weights"] == pytest.approx(33.51, abs=0.01)
    assert parts["activations"] == pytest.approx(0.5 + 0.245, abs=0.01)
    assert parts["spare"] == pytest.approx(0.02 * 79.14)
    assert sum(parts.values()) == pytest.approx(79.14)
    # 0.84 x 79.14 less 33.51, 0.74, 0.8, 0.3, 1.8 and 1.58
    assert found.kv_gib == pytest.approx(27.74, abs=0.02)
    # a token takes 327,680 bytes, a quarter of that on each GPU
    assert found.needed_gib == pytest.approx(131072 * 81920 / 1024**3 + 81920 * 16 / 1024**3)
    assert (found.max_context, found.parallelism.tensor, found.fits) == (131072, 4, True)
    assert found.tokens == pytest.approx(27.74 * 1024**3 / 81920, rel=0.01)


@pytest.mark.parametrize(
    ("preset", "machine", "fits", "longest"),
    [
        ("deepseek-r1-0528", "Standard_ND96isr_H100_v5", False, 0),  # 82 GiB of weights for 79 of each GPU
        ("deepseek-r1-0528", "Standard_ND96isr_H200_v5", True, 163840),
        ("gpt-oss-120b", "Standard_NC24ads_A100_v4", True, 30224),  # 60.8 GiB in mxfp4, 1.2 GiB left
        ("gpt-oss-120b", "Standard_NV72ads_A10_v5", False, 0),
        ("gpt-oss-20b", "g5.xlarge", True, 131072),
        ("llama-3.3-70b-instruct", "Standard_NC24ads_A100_v4", False, 0),
        ("llama-3.3-70b-instruct", "Standard_NC80adis_H100_v5", True, None),
        ("llama-3.1-8b-instruct", "g4dn.xlarge", False, 0),  # 15 GiB for 14.6
        ("phi-4-mini-instruct", "g4dn.xlarge", True, None),
        ("mistral-7b-instruct", "Standard_NV36ads_A10_v5", True, None),
    ],
)
def test_large_models_on_usual_machines(preset: str, machine: str, fits: bool, longest: int | None) -> None:
    found = fit(catalogue().find(preset), gpus_of(machine))
    assert found.fits == fits, found.why
    assert longest is None or found.max_context == longest


def test_qwen3_235b_on_four_h100_holds_what_vllm_said_or_less() -> None:
    found = fit(QWEN3_235B_FP8, of("H100 80GB", 4), Demand(utilization=0.9, context=2048))
    # 48,128 bytes a token on each of four GPUs; vLLM said 178,880 tokens
    assert 0.8 * 178_880 < found.tokens <= 178_880


def test_why_says_what_is_missing() -> None:
    tight = gpus_of("g5.xlarge")
    assert (
        "1.2 GiB of 22.1 GiB of NVIDIA A10G are left for keys and values; 32768 tokens take 4.0, and 10096"
        in fit(LLAMA_8B, tight, Demand(context=32768)).why
    )
    full = fit(LLAMA_70B, tight).why
    assert "weights and working memory take 136.3 GiB; the engine may use 18.5 of 22.1 GiB of NVIDIA A10G" in full
    assert (
        "the model was made for 131072 tokens, and 200000 are asked for"
        in fit(LLAMA_8B, gpus_of("Standard_NC24ads_A100_v4"), Demand(context=200000)).why
    )
    many = fit(LLAMA_8B, gpus_of("Standard_NC24ads_A100_v4"), Demand(context=32768, requests=50))
    assert not many.fits
    assert "50 requests of 32768 tokens take 200.0" in many.why
    assert "and 12 fit at once" in many.why
    assert fit(LLAMA_8B, gpus_of("Standard_NC24ads_A100_v4")).why.startswith("weights and working memory take 18.4 GiB")


def test_what_is_demanded_changes_what_is_left() -> None:
    a100 = gpus_of("Standard_NC24ads_A100_v4")
    plain, halved = fit(LLAMA_8B, a100), fit(LLAMA_8B, a100, Demand(kv_format="fp8"))
    assert halved.tokens == pytest.approx(2 * plain.tokens, rel=0.01)
    quantised = fit(LLAMA_8B, a100, Demand(weights="fp8"))
    # embeddings of 128256 x 4096 stay in 16 bits, twice; the rest is halved
    assert weights_gib(LLAMA_8B, "fp8") == pytest.approx((14.96 - 1.957) / 2 + 1.957, abs=0.01)
    assert quantised.kv_gib == pytest.approx(plain.kv_gib + 6.5 * 1.02, abs=0.05)
    adapted = fit(LLAMA_8B, a100, Demand(adapters=4, adapter_rank=16))
    # 7 matrices of 32 layers, of rank 16, beside at most 4096 + 4 x 4096
    assert plain.kv_gib - adapted.kv_gib == pytest.approx(4 * 7 * 32 * 16 * 20480 * 2 / 1024**3)
    assert fit(LLAMA_8B, a100, Demand(utilization=0.5)).kv_gib < plain.kv_gib


def test_stages_are_as_full_as_the_fullest() -> None:
    two = fit(LLAMA_70B, gpus_of("Standard_NC24ads_A100_v4"), nodes=2)
    weights = next(part.gib for part in two.parts if part.name == "weights")
    embedding = 128256 * 8192 * 2 / 1024**3
    assert two.parallelism.pipeline == 2
    assert weights == pytest.approx(((131.42 - 2 * embedding) / 2 + embedding) * 1.02)


@pytest.mark.parametrize(
    ("quantization", "format_"),
    [
        (None, "bf16"),
        ("mxfp4", "mxfp4"),
        ("fp8", "fp8"),
        ("float-quantized", "fp8"),
        ("nvfp4-pack-quantized", "nvfp4"),
        ("awq", "awq"),
        ("bitsandbytes", "nf4"),
        ("pack-quantized", "bf16"),
    ],
)
def test_the_format_of_weights(quantization: str | None, format_: str) -> None:
    assert stored_as(ModelFacts(id="a/b", quantization=quantization)) == format_


def test_batches_are_those_of_vllms_server() -> None:
    cases = {"T4": 2048, "A100 80GB": 2048, "H100 80GB": 8192, "H200 NVL": 8192, "B200": 16384}
    assert {name: batch_tokens(of(name)) for name in cases} == cases
    assert (batch_requests(of("T4")), batch_requests(of("B200"))) == (256, 1024)


def test_offers_are_the_cheapest_first_and_one_for_each_kind_of_gpus() -> None:
    found = offers(LLAMA_70B, instance_types())
    priced = [offer.usd_per_hour for offer in found if offer.usd_per_hour is not None]
    assert priced == sorted(priced)
    assert [offer.usd_per_hour for offer in found][: len(priced)] == priced
    assert found[0].type.name == "Standard_NC80adis_H100_v5"
    kinds = [(offer.type.cloud, offer.type.gpus) for offer in found]
    assert len(kinds) == len(set(map(str, kinds)))
    assert all(offer.fit.fits and offer.type.gpus.is_nvidia and not offer.type.retired for offer in found)


def test_a_gpu_without_kernels_is_not_offered() -> None:
    gpt_oss = catalogue().find("gpt-oss-20b")
    assert not [offer for offer in offers(gpt_oss, instance_types()) if "T4" in offer.type.gpus.product]
    noted = fit(gpt_oss, gpus_of("Standard_NC64as_T4_v3"))
    assert "NVIDIA T4 has no kernels for mxfp4 weights." in noted.notes


def test_what_instead_is_a_part_of_a_sentence() -> None:
    assert instead(catalogue().find("phi-4"), instance_types("azure"), most=2) == (
        "Standard_NC24ads_A100_v4 (1 x A100 80 GiB, 3.67 USD/h), Standard_NC64as_T4_v3 (4 x T4 16 GiB, 4.35 USD/h)"
    )
    assert instead(ModelFacts(id="a/b"), instance_types()) == ""
    assert instead(LLAMA_70B, ()) == ""


def test_a_model_without_facts_cannot_be_sized() -> None:
    unknown = ModelFacts(id="somebody/something")
    with pytest.raises(ValueError, match="nothing is known of somebody/something"):
        fit(unknown, gpus_of("g5.xlarge"))


def test_every_preset_fits_some_machine_or_none_has_memory_for_its_weights() -> None:
    most = max(one.gpus.memory_gib for one in instance_types() if one.gpus.is_nvidia)
    without = [model.id for model in catalogue().models if not offers(model, instance_types())]
    assert set(without) <= {model.id for model in catalogue().models if (model.weights_gib or 0) > 0.5 * most}


def test_what_one_node_would_need_is_said_in_gpus() -> None:
    assert least_gpus(catalogue().find("phi-4"), instance_types()) == ("1 x A100 40 GiB", "1 x L40S 48 GiB")
    assert least_gpus(ModelFacts(id="a/b"), instance_types()) == ()
