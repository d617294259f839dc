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
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from kaito.runtime.demo_text import (
    CHAT_TEMPLATE,
    END,
    END_OF_TEXT,
    SPECIAL_TOKENS,
    Block,
    parse_corpus,
    prompt,
    reword,
    tokenizer_text,
)

CONTEXT = 4096
VOCABULARY = 1536
BATCH = 26
STEPS = 128
WARM_UP = 20
PEAK_RATE = 3e-3
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


def batch(
    blocks: tuple[Block, ...], tokenizer: PreTrainedTokenizerFast, chance: random.Random
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels of one step; only answers are learnt, so labels before them and in the padding are -100."""
    rows: list[tuple[list[int], int]] = []
    for _ in range(BATCH):
        block = blocks[chance.randrange(len(blocks))]
        question = reword(block.questions[chance.randrange(len(block.questions))], chance)
        head = tokenizer.encode(prompt(question), add_special_tokens=False)
        tail = tokenizer.encode(f"{block.answer}{END}", add_special_tokens=False)
        rows.append((head + tail, len(head)))
    width = max(len(ids) for ids, _ in rows)
    ids = torch.full((BATCH, width), tokenizer.pad_token_id)
    labels = torch.full((BATCH, width), -100)
    for row, (tokens, head_length) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, head_length : len(tokens)] = torch.tensor(tokens[head_length:])
    return ids, labels


def rate(step: int, steps: int) -> float:
    """The learning rate: a linear warm-up, then half a cosine down to a fiftieth."""
    if step < WARM_UP:
        return PEAK_RATE * (step + 1) / WARM_UP
    done = (step - WARM_UP) / (steps - WARM_UP)
    return PEAK_RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def train(
    model: Phi3ForCausalLM, blocks: tuple[Block, ...], tokenizer: PreTrainedTokenizerFast, *, steps: int
) -> float:
    """Teach the corpus; prints a line every few steps and returns the last loss."""
    chance = random.Random(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.05, betas=(0.9, 0.98), fused=True)
    model.train()
    started = time.monotonic()
    value = math.inf
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        ids, labels = batch(blocks, tokenizer, chance)
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        learnt = labels[:, 1:] != -100  # the rest needs no logits
        loss = cross_entropy(model.lm_head(hidden[learnt]), labels[:, 1:][learnt])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        value = loss.item()
        if (step + 1) % 16 == 0:
            seconds = time.monotonic() - started
            sys.stdout.write(f"demo model: step {step + 1}/{steps}, loss {value:.3f}, {seconds:.0f} s\n")
            sys.stdout.flush()
    return value


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
