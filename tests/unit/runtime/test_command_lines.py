# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The command lines of both engines: golden cases, and the layers of options."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kaito.api.contracts import Adapter, ModelSource, Parallelism, ServeConfig
from kaito.catalog.engine_options import KV_MEMORY_KEY, file_problem
from kaito.runtime.failure import Failed
from kaito.runtime.serve import transformers, vllm
from kaito.runtime.serve.launch import GIB, Facts, kv_memory_share, option_name, user_options

SOCKET = "/run/engine.sock"
FACTS = Facts("/weights/org/name", local=True, python="python", socket=SOCKET, cpus=2, memory_bytes=20 * GIB)


def config(**changes: Any) -> ServeConfig:
    base: dict[str, Any] = {
        "workspace": "demo",
        "namespace": "default",
        "engine": "vllm",
        "device": "cuda",
        "model": ModelSource(id="org/name"),
        "served_model_name": "name",
    }
    return ServeConfig(**{**base, **changes})


def command(line: str) -> tuple[str, ...]:
    return tuple(line.split())


VLLM = "python -m vllm.entrypoints.openai.api_server "

GOLDEN = [
    (
        "a GPU",
        config(dtype="bfloat16", gpu_memory_utilization=0.84),
        FACTS,
        VLLM + "--disable-uvicorn-access-log --dtype bfloat16 --gpu-memory-utilization 0.84"
        " --max-model-len auto --model /weights/org/name --served-model-name name",
    ),
    (
        "a CPU",
        config(device="cpu", gpu_memory_utilization=0.84),
        FACTS,
        VLLM + "--disable-uvicorn-access-log"
        " --distributed-executor-backend vllm.v1.executor.uniproc_executor.UniProcExecutor"
        " --dtype bfloat16 --enforce-eager --max-model-len auto --model /weights/org/name"
        " --served-model-name name",
    ),
    (
        "four GPUs, parsers, a download",
        config(
            parallelism=Parallelism(tensor=4),
            tool_call_parser="hermes",
            reasoning_parser="qwen3",
            extra_args={"kv_cache_dtype": "fp8", "kernel-config.enable_flashinfer_autotune": False},
            max_model_len=8192,
        ),
        replace(FACTS, model="org/name", local=False, download_dir="/workspace/weights", revision="abc"),
        VLLM + "--disable-uvicorn-access-log --download-dir /workspace/weights --dtype auto --enable-auto-tool-choice"
        " --kernel-config.enable_flashinfer_autotune false --kv-cache-dtype fp8 --max-model-len 8192"
        " --model org/name --reasoning-parser qwen3 --revision abc --served-model-name name"
        " --tensor-parallel-size 4 --tool-call-parser hermes",
    ),
    (
        "events for routers, a performance mode, parts of the KV cache in memory",
        config(
            extra_args={"kv-events-config": '{"enable_kv_cache_events":true}', "performance-mode": "throughput"},
            kv_offload=True,
        ),
        replace(FACTS, kv_memory_share=0.5),
        VLLM + "--disable-uvicorn-access-log --dtype auto"
        ' --kv-events-config {"enable_kv_cache_events":true} --kv-offloading-backend native --kv-offloading-size 10.0'
        " --max-model-len auto --model /weights/org/name --performance-mode throughput --served-model-name name",
    ),
]


@pytest.mark.parametrize(("name", "given", "facts", "expected"), GOLDEN, ids=[case[0] for case in GOLDEN])
def test_vllm_starts_with_this_command(name: str, given: ServeConfig, facts: Facts, expected: str) -> None:
    assert vllm.launch(given, facts).argv == command(expected + " --uds " + SOCKET)


def test_the_same_config_gives_the_same_command() -> None:
    given = config(extra_args={"b": 1, "a": 2})
    swapped = config(extra_args={"a": 2, "b": 1})
    assert vllm.launch(given, FACTS) == vllm.launch(swapped, FACTS)


def test_adapters_are_models_of_their_own() -> None:
    given = config(adapters=(Adapter(name="one", path="/mnt/adapter/one"),))
    launch = vllm.launch(given, replace(FACTS, lora_rank=24))
    words = list(launch.argv)
    assert words[words.index("--lora-modules") + 1] == '{"name": "one", "path": "/mnt/adapter/one"}'
    assert words[words.index("--max-lora-rank") + 1] == "32"
    assert launch.served_names == ("name", "one")


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ("max-model-len: 2048", ["--max-model-len", "2048"]),
        ("max_model_len: 16k", ["--max-model-len", "16k"]),
        ("--cpu-offload-gb: 4", ["--cpu-offload-gb", "4"]),
        ("enable-prefix-caching: true", ["--enable-prefix-caching"]),
        ("enable-prefix-caching: false", ["--no-enable-prefix-caching"]),
        ("disable-log-stats: false", []),
        ("gpu-memory-utilization: 0.5", ["--gpu-memory-utilization", "0.5"]),
        ("api-key: [a, b]", ["--api-key", "a", "b"]),
        ("allowed-origins: ['*']", ["--allowed-origins", '["*"]']),
        ("hf-overrides: {factor: 2.0, type: linear}", ["--hf-overrides", '{"factor": 2.0, "type": "linear"}']),
        ("compilation-config.pass_config.fuse: false", ["--compilation-config.pass_config.fuse", "false"]),
        ("lora-modules: [{name: a, path: /a}]", ["--lora-modules", '{"name": "a", "path": "/a"}']),
        ("dtype: null", []),
        ('kv-transfer-config: \'{"kv_role":"kv_both"}\'', ["--kv-transfer-config", '{"kv_role":"kv_both"}']),
    ],
)
def test_every_type_of_a_users_value_is_expressed(yaml: str, expected: list[str]) -> None:
    options = user_options(f"vllm:\n  {yaml}\n", "vllm")
    [(key, value)] = options.items()
    assert vllm.option_words(key, value) == expected


def test_the_users_options_win_but_not_over_the_front() -> None:
    options = user_options("vllm: {dtype: half, max-model-len: null, port: 1, served-model-name: other}", "vllm")
    launch = vllm.launch(config(), replace(FACTS, user_options=options))
    words = list(launch.argv)
    assert words[words.index("--dtype") + 1] == "half"
    assert "--max-model-len" not in words
    assert words[words.index("--uds") + 1] == "/run/engine.sock" and "--port" not in words
    assert launch.ignored == ("port",)
    assert launch.served_names == ("other",)


@pytest.mark.parametrize(
    ("changes", "share", "theirs", "expected"),
    [
        ({"kv_offload": True}, 0.5, {}, ["--kv-offloading-backend", "native", "--kv-offloading-size", "10.0"]),
        ({"kv_offload": True}, 0.0, {}, []),
        ({}, 0.5, {}, []),
        ({"kv_offload": True}, 0.5, {"kv-transfer-config": {"kv_connector": "Own"}}, []),
        ({"kv_offload": True}, 0.5, {"kv-offloading-size": 3}, ["--kv-offloading-backend", "native",
                                                                "--kv-offloading-size", "3"]),
    ],
)  # fmt: skip
def test_parts_of_the_kv_cache_are_kept_in_memory_where_the_user_asks(
    changes: dict[str, Any], share: float, theirs: dict[str, Any], expected: list[str]
) -> None:
    launch = vllm.launch(config(**changes), replace(FACTS, kv_memory_share=share, user_options=theirs))
    words = list(launch.argv)
    found = [word for at, word in enumerate(words) if "offloading" in word or "offloading" in words[at - 1]]
    assert found == expected


def test_kaitos_key_for_that_is_read_and_checked() -> None:
    assert kv_memory_share("") == kv_memory_share("vllm: {}") == kv_memory_share(f"{KV_MEMORY_KEY}: -1") == 0
    assert kv_memory_share(f"{KV_MEMORY_KEY}: 0.25\nvllm: {{}}") == 0.25
    assert file_problem({"max_queued_requests": 3}, "vllm") is not None, "what has no effect is not taken"
    for wrong in ("much", True, 1.5, [1]):
        problem = file_problem({KV_MEMORY_KEY: wrong}, "vllm")
        assert problem is not None and KV_MEMORY_KEY in problem


@pytest.mark.parametrize("text", ["vllm: [a]", "- a", "vllm: {a: 1", "text"])
def test_a_users_file_that_is_no_map_is_refused_in_words(text: str) -> None:
    with pytest.raises(Failed) as error:
        user_options(text, "vllm")
    assert error.value.failure.reason == "InferenceConfigInvalid"
    assert "inference_config.yaml" in error.value.failure.message


@pytest.mark.parametrize("text", ["", "vllm:", "kv_cache_cpu_memory_utilization: 0.5", "max_probe_steps: 6\nvllm: {}"])
def test_a_users_file_may_say_nothing(text: str) -> None:
    assert user_options(text, "vllm") == {}


@pytest.mark.parametrize(
    ("key", "name"),
    [("max_model_len", "max-model-len"), ("--a-b", "a-b"), ("kernel_config.a_b", "kernel-config.a_b")],
)
def test_names_take_dashes_but_for_nested_fields(key: str, name: str) -> None:
    assert option_name(key) == name


@pytest.mark.parametrize(
    ("model", "free_gib", "expected"),
    [
        ({}, 20, 4),
        ({}, 1, 1),
        ({"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 256}, 20, 1),
        ({"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 3072}, 200, 12),
        ({"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 3072}, 20, 5),
    ],
)
def test_the_cpu_cache_fits_the_model_and_the_machine(model: dict[str, Any], free_gib: int, expected: int) -> None:
    assert vllm.cpu_kv_cache_gib(model, 4096, free_gib * GIB) == expected


def test_a_cpu_gets_its_threads_and_no_hub() -> None:
    values = vllm.launch(config(device="cpu"), FACTS).environment
    assert (values["OMP_NUM_THREADS"], values["OMP_WAIT_POLICY"]) == ("2", "PASSIVE")
    assert values["HF_HUB_OFFLINE"] == "1"
    assert "VLLM_CPU_KVCACHE_SPACE" not in vllm.launch(config(), FACTS).environment


def test_transformers_starts_with_this_command() -> None:
    launch = transformers.launch(config(engine="transformers", device="cpu"), FACTS)
    assert launch.argv == command(
        "python -m kaito.runtime.textgen --device cpu --dtype auto --model /weights/org/name --served-model-name name"
        " --uds /run/engine.sock"
    )


def test_transformers_takes_the_users_section() -> None:
    text = "transformers: {max_num_seqs: 4, torch_dtype: bfloat16, served-model-name: other}"
    facts = replace(FACTS, user_options=user_options(text, "transformers"))
    launch = transformers.launch(config(engine="transformers"), facts)
    words = list(launch.argv)
    assert words[words.index("--max-num-seqs") + 1] == "4" and launch.served_names == ("other",)
    assert words[words.index("--dtype") + 1] == "bfloat16"


@pytest.mark.parametrize(
    ("text", "reason", "said"),
    [
        (
            "vllm: {max-model-lem: 4}",
            "UnknownEngineOption",
            "vllm has no option max-model-lem; did you mean max-model-len?",
        ),
        ("vllm: {swap-space: 4}", "UnknownEngineOption", "vllm has no option swap-space"),
        ("vllm: {max-num-seqs: many}", "InferenceConfigInvalid", "max-num-seqs of vllm must be a whole number"),
        ("vllm: {enable-lora: 1}", "InferenceConfigInvalid", "enable-lora of vllm must be true or false"),
        ("vllm: {dtype: int3}", "InferenceConfigInvalid", "dtype of vllm must be one of auto, bfloat16"),
        ("vllm: {max-model-len: long}", "InferenceConfigInvalid", "such as 4096 or 16k, or auto"),
        ("vllm: {kv-transfer-config: 3x}", "InferenceConfigInvalid", "must be a map or a list"),
        ("vllm: {seed.a: 1}", "InferenceConfigInvalid", "seed of vllm has no fields"),
        ("max-model-len: 4", "InferenceConfigInvalid", "Options of the engine stand below `vllm:`"),
        ("vlm: {}", "InferenceConfigInvalid", "did you mean vllm?"),
    ],
)
def test_a_wrong_option_is_named_with_its_config_map(text: str, reason: str, said: str) -> None:
    with pytest.raises(Failed) as error:
        user_options(text, "vllm", config_map="mine")
    failure = error.value.failure
    assert failure.reason == reason and said in failure.message
    assert failure.message.startswith("Key inference_config.yaml of ConfigMap mine: ") and "mine" in failure.next_step


def test_transformers_takes_adapters_in_the_words_of_vllm() -> None:
    given = config(engine="transformers", adapters=(Adapter(name="one", path="/one"),))
    launch = transformers.launch(given, FACTS)
    assert launch.argv[launch.argv.index("--lora-modules") + 1] == '{"name": "one", "path": "/one"}'
    assert launch.served_names == ("name", "one")
