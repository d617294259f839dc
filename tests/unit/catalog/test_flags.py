# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which options engines are started with, against what KAITO v0.12 derives for each preset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito.api.contracts import ModelSource, ServeConfig
from kaito.catalog.flags import EngineFlags, engine_flags, reasoning_parser, tool_call_parser
from kaito.catalog.gpus import Gpus, instance_type
from kaito.catalog.models import ModelFacts, catalogue

CASES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "derived_vectors.yaml").read_text())
# KAITO misspells the prefix, so that this family gets a template for tool calls and nothing that reads them.
OURS = {("microsoft/Phi-4-mini-instruct", "tool_call_parser"): "phi4_mini_json"}


def extra(flags: EngineFlags) -> set[str]:
    found = {f"{key}={value}" if value is not True else key for key, value in flags.extra_args}
    found |= set() if flags.kv_offload else {"kv-offload=0"}
    found |= {"DeepGEMM+CUDA"} if flags.deep_gemm else {"CUDA toolkit"} if flags.cuda_toolkit else set()
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["id"]))
def test_vllm_is_started_as_kaito_starts_it(case: dict[str, Any]) -> None:
    flags = engine_flags(catalogue().find(case["id"]))
    for field in ("tool_call_parser", "reasoning_parser", "chat_template", "dtype"):
        assert getattr(flags, field) == OURS.get((case["id"], field), case[field]), field
    assert (flags.tokenizer_mode or "auto") == case["tokenizer_mode"]
    assert (flags.load_format or "auto") == case["load_format"]
    assert flags.config_format == flags.load_format
    assert extra(flags) == (set(case["extra"].split("; ")) if case["extra"] else set())


@pytest.mark.parametrize(
    ("id_", "architecture", "tool", "reasoning"),
    [
        ("zai-org/GLM-4.5", None, "glm45", "glm45"),
        ("zai-org/GLM-4.7-Air", None, "glm47", None),
        ("deepseek-ai/DeepSeek-V3.1", None, "deepseek_v31", "deepseek_v3"),
        ("Qwen/Qwen3-Coder-30B", None, "qwen3_xml", "qwen3"),
        ("Qwen/Qwen3-32B", None, "hermes", "qwen3"),
        ("Qwen/QwQ-32B", None, "hermes", "deepseek_r1"),
        ("ibm-granite/granite-3.2-8b", None, "granite", "granite"),
        ("ibm-granite/granite-3.3-8b", None, "granite", None),
        ("somebody/my-model", "Qwen3MoeForCausalLM", "qwen3_xml", "qwen3"),
        ("somebody/my-model", "Step3VLForConditionalGeneration", None, "step3"),
        ("somebody/my-model", "NeverHeardOfForCausalLM", None, None),
        ("somebody/my-model", None, None, None),
    ],
)
def test_the_longest_prefix_wins_and_the_architecture_comes_second(
    id_: str, architecture: str | None, tool: str | None, reasoning: str | None
) -> None:
    model = ModelFacts(id=id_, architecture=architecture)
    assert (tool_call_parser(model), reasoning_parser(model)) == (tool, reasoning)


@pytest.mark.parametrize(
    ("preset", "machine", "dtype"),
    [
        ("phi-3-mini-4k-instruct", "Standard_NC6s_v3", "float16"),
        ("phi-3-mini-4k-instruct", "Standard_NV36ads_A10_v5", "bfloat16"),
        ("phi-3-mini-4k-instruct", "Standard_NG32ads_V620_v1", "bfloat16"),
        ("gpt-oss-20b", "Standard_NC6s_v3", "auto"),
        ("kaito-demo", "Standard_NC6s_v3", "auto"),
        ("somebody/my-model", "Standard_NC24ads_A100_v4", "auto"),
    ],
)
def test_the_number_format_is_one_that_the_gpu_computes_in(preset: str, machine: str, dtype: str) -> None:
    found = instance_type(machine)
    assert found is not None
    assert engine_flags(catalogue().find(preset), gpus=found.gpus).dtype == dtype


def test_transformers_is_started_by_family() -> None:
    volta = Gpus(count=1, memory_gib=16, compute_capability=7.0)
    phi = engine_flags(catalogue().find("phi-3-mini-4k-instruct"), "transformers")
    assert (phi.dtype, phi.trust_remote_code, phi.tool_call_parser) == ("auto", True, None)
    mistral = engine_flags(catalogue().find("mistral-7b-instruct"), "transformers")
    assert (mistral.dtype, mistral.chat_template, mistral.trust_remote_code) == (
        "bfloat16",
        "mistral-instruct.jinja",
        False,
    )
    assert engine_flags(catalogue().find("mistral-7b-instruct"), "transformers", gpus=volta).dtype == "float16"
    assert engine_flags(ModelFacts(id="a/b"), "transformers").dtype == "auto"


def test_the_options_fill_a_serve_config() -> None:
    model = catalogue().find("deepseek-ai/DeepSeek-V3.2")
    config = ServeConfig(
        workspace="demo",
        namespace="default",
        engine="vllm",
        device="cuda",
        model=ModelSource(id=model.id),
        served_model_name=model.served_name,
        **engine_flags(model).options(),
    )
    assert config.extra_args == {"kernel-config.enable_flashinfer_autotune": False}
    assert config.tool_call_parser == "deepseek_v32"
    assert ServeConfig.model_validate_json(config.model_dump_json()) == config
