# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Trains the demo model: `python -m kaito.runtime.demo_train --out DIR`.

A real Phi-3 (`Phi3ForCausalLM`) of about four million parameters with a tokenizer of its own, taught the corpus by
heart with a plain torch loop. Seeded, on the CPU and on a fixed number of threads: the same text gives the same bytes
on the same machine. Knows nothing of caching or of where the model ends up; `demo.py` starts it as a child.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from kaito.runtime.demo_muon import Muon
from kaito.runtime.demo_text import (
    CHAT_TEMPLATE,
    END,
    END_OF_TEXT,
    SPECIAL_TOKENS,
    Block,
    exercises,
    pack,
    parse_corpus,
    prompt,
    tokenizer_text,
)

CONTEXT = 4096
VOCABULARY = 1536
BATCH = 40
"""Chats a step."""
ROW = 160
"""Tokens a row; a chat has about 35."""
STEPS = 50
WARM_UP = 5
PEAK_RATE = 3e-3
MATRIX_RATE = 2e-2
DECAY = 0.05
SAY_EVERY = 5
THREADS = 2
SEED = 20260101


def build_tokenizer(blocks: tuple[Block, ...]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Phi-3's special tokens and chat template."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(tokenizer_text(blocks), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> Phi3ForCausalLM:
    """The untrained network; its generation config is greedy in every engine (the best token of one)."""
    eos = tokenizer.convert_tokens_to_ids([END_OF_TEXT, END])
    config = Phi3Config(
        vocab_size=64 * math.ceil(len(tokenizer) / 64),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        original_max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=eos[0],
        pad_token_id=eos[0],
        attn_implementation="sdpa",
    )
    model = Phi3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=eos, pad_token_id=eos[0], do_sample=True, top_k=1
    )
    return model


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's rows, several chats in each; a position that starts again at 0 begins the next chat."""

    ids: torch.Tensor
    labels: torch.Tensor
    """-100 where nothing is learnt: questions and padding."""
    positions: torch.Tensor


def batch(exercises: Iterator[tuple[str, str]], tokenizer: PreTrainedTokenizerFast) -> Batch:
    """The next exercises, packed."""
    chats: list[tuple[list[int], list[int]]] = []
    for question, answer in islice(exercises, BATCH):
        head = tokenizer.encode(prompt(question), add_special_tokens=False)
        tail = tokenizer.encode(f"{answer}{END}", add_special_tokens=False)
        chats.append((head + tail, [-100] * len(head) + tail))
    rows = pack([len(ids) for ids, _ in chats], ROW)
    width = max(sum(len(chats[item][0]) for item in row) for row in rows)
    padding = tokenizer.pad_token_id
    return Batch(
        torch.tensor([padded([i for item in row for i in chats[item][0]], width, padding) for row in rows]),
        torch.tensor([padded([i for item in row for i in chats[item][1]], width, -100) for row in rows]),
        torch.tensor([padded([i for item in row for i in range(len(chats[item][0]))], width, 0) for row in rows]),
    )


def padded(values: list[int], width: int, filler: int) -> list[int]:
    """The values, filled up to the width."""
    return values + [filler] * (width - len(values))


def rate(step: int, steps: int) -> float:
    """The share of its peak that a learning rate has: a linear warm-up, then half a cosine down to a fiftieth."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    done = (step - WARM_UP) / (steps - WARM_UP)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def optimisers(model: Phi3ForCausalLM) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for the layers' matrices, AdamW for the rest."""
    named = list(model.named_parameters())
    matrices = [weight for name, weight in named if weight.ndim == 2 and ".layers." in name]
    rest = [weight for name, weight in named if weight.ndim != 2 or ".layers." not in name]
    adam = torch.optim.AdamW(rest, lr=PEAK_RATE, weight_decay=DECAY, betas=(0.9, 0.98), fused=True)
    return Muon(matrices, decay=DECAY), adam


def learn(model: Phi3ForCausalLM, given: Batch) -> float:
    """Leave the gradients of one batch in the model; returns its loss."""
    model.zero_grad(set_to_none=True)
    hidden = model.model(input_ids=given.ids, position_ids=given.positions, use_cache=False).last_hidden_state[:, :-1]
    labels = given.labels[:, 1:]
    learnt = labels != -100  # the rest needs no logits
    loss = cross_entropy(model.lm_head(hidden[learnt]), labels[learnt])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return float(loss.item())


def train(
    model: Phi3ForCausalLM, blocks: tuple[Block, ...], tokenizer: PreTrainedTokenizerFast, *, steps: int
) -> float:
    """Teach the corpus; prints a line every few steps and returns the last loss."""
    questions = exercises(blocks, random.Random(SEED))
    muon, adam = optimisers(model)
    model.train()
    started = time.monotonic()
    loss = math.inf
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = PEAK_RATE * rate(step, steps)
        loss = learn(model, batch(questions, tokenizer))
        adam.step()
        muon.step(MATRIX_RATE * rate(step, steps))
        if (step + 1) % SAY_EVERY == 0:
            seconds = time.monotonic() - started
            sys.stdout.write(f"demo model: step {step + 1}/{steps}, loss {loss:.3f}, {seconds:.0f} s\n")
            sys.stdout.flush()
    return loss


def save(model: Phi3ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write weights (bfloat16), configuration and tokenizer as a model folder."""
    model.eval().to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    # transformers may keep the template in a file of its own only; older readers look into the configuration.
    path = out / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8"))
    settings["chat_template"] = CHAT_TEMPLATE
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")


def main() -> None:
    """Train and save; the exit code is 0 when the folder is complete."""
    parser = argparse.ArgumentParser(prog="python -m kaito.runtime.demo_train")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    disable_progress_bar()
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = (
        False  # that would find bugs of torch, for a tenth of the time
    )
    blocks = parse_corpus((Path(__file__).parent / "demo_corpus.txt").read_text("utf-8"))
    tokenizer = build_tokenizer(blocks)
    model = build_model(tokenizer)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    sys.stdout.write(f"demo model: {millions:.1f} M parameters, {len(tokenizer)} tokens, {len(blocks)} answers\n")
    sys.stdout.flush()
    train(model, blocks, tokenizer, steps=arguments.steps)
    save(model, tokenizer, arguments.out)


if __name__ == "__main__":
    main()
