# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""One NVIDIA GPU: the transformers engine by the number of streams, and fine-tuning beside what we estimate of it.

The model is made on the spot: chance weights of the Llama shape with 1.1 thousand million parameters in bfloat16, and
the demo model's tokenizer.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from tests.e2e.runtime_process import RuntimeProcess, serve_config

from benchmarks.serving import STREAMS, round_of
from benchmarks.tuning import write_ragged
from kaito.api.contracts import TuningMethod
from kaito.runtime.tune.job import Job, Summary, read, state_dir

NAME = "kaito/llama-1b"
ESTIMATE = re.compile(r"an estimated ([\d.]+) GiB")
PEAK = """
import sys, torch
from kaito.runtime.tune.worker import main
code = main(['', sys.argv[1]])
print(f'peak {torch.cuda.max_memory_allocated() / 2**30:.3f} GiB')
sys.exit(code)
"""
MAKE = """
import sys, torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
torch.set_default_dtype(torch.bfloat16)
with torch.device('cuda'):
    model = LlamaForCausalLM(LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=18, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=len(tokenizer), max_position_embeddings=8192, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))
model.save_pretrained(sys.argv[2])
tokenizer.save_pretrained(sys.argv[2])
"""


@dataclass
class Found:
    """The figures."""

    tokens_per_s: dict[int, list[float]] = field(default_factory=dict)
    first_ms: dict[int, list[float]] = field(default_factory=dict)
    trained_per_s: dict[str, float] = field(default_factory=dict)
    peak_share: dict[str, float] = field(default_factory=dict)
    """Memory that a training took over our estimate of it."""


def make_model(folder: Path, demo: Path) -> None:
    """Put the model into the folder, in a process of its own: this one is to keep nothing on the GPU."""
    subprocess.run([sys.executable, "-c", MAKE, str(demo), str(folder / NAME)], check=True, capture_output=True)


def on_gpu(config: Path) -> Path:
    """The same serve config for a GPU."""
    config.write_text(json.dumps(json.loads(config.read_text()) | {"device": "cuda"}))
    return config


async def _streams(url: str, found: Found, rounds: int) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await round_of(session, url, 4, 2)
        for streams in STREAMS:
            for _ in range(rounds):
                one = await round_of(session, url, streams, 4)
                found.tokens_per_s.setdefault(streams, []).append(one.tokens_per_s)
                found.first_ms.setdefault(streams, []).append(one.percentile(0.5))


def train(folder: Path, method: TuningMethod, model: str, found: Found) -> None:
    """One training with packing, and with as many rows at once as it finds to fit."""
    output = folder / method
    output.mkdir()
    config = output / "training.yaml"
    quantized = "  QuantizationConfig: {load_in_4bit: true, bnb_4bit_quant_type: nf4}\n" if method == "qlora" else ""
    arguments = "  TrainingArguments: {num_train_epochs: 4, max_length: 1024, packing: true}\n"
    config.write_text(f"training_config:\n{arguments}{quantized}")
    job = Job(
        workspace="bench", model=model, model_id=NAME, method=method, device="cuda",
        training_config=str(config), data_dir=str(folder / "data"), output_dir=str(output), checkpoint_s=3600,
    )  # fmt: skip
    file = output / "job.json"
    file.write_text(job.model_dump_json())
    done = subprocess.run([sys.executable, "-c", PEAK, str(file)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{method}: {done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    said = done.stdout + done.stderr
    estimate, peak = ESTIMATE.search(said), re.search(r"peak ([\d.]+) GiB", said)
    summary = read(state_dir(output) / "summary.json", Summary)
    assert estimate and peak and summary and summary.tokens_per_second
    found.trained_per_s[method] = summary.tokens_per_second
    found.peak_share[method] = float(peak[1]) / float(estimate[1])


def measure(folder: Path, demo: Path, rounds: int = 3) -> Found:
    """Everything, on the first GPU; `demo` is the demo model's folder."""
    found = Found()
    models = folder / "models"
    make_model(models, demo)
    (folder / "serve").mkdir()
    config = serve_config(folder / "serve", "transformers", id=NAME, local_dirs=[str(models)])
    with RuntimeProcess(on_gpu(config), folder / "serve") as server:
        server.wait_ready()
        asyncio.run(_streams(f"http://127.0.0.1:{server.port}", found, rounds))
    (folder / "data").mkdir()
    write_ragged(folder / "data", rows=1024)
    methods: tuple[TuningMethod, ...] = ("lora", "qlora")
    for method in methods:
        train(folder, method, str(models / NAME), found)
    return found
