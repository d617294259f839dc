# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a tuning of a model on a data set would take: `python -m kaito.runtime.tune.costs FOLDER --model DIR`.

What `preview.py` says of the data, then their tokens, and estimates of memory and time. Of the model only its tokenizer
and its configuration are read.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from kaito.api.contracts import TuningMethod
from kaito.api.training import TrainingOptions
from kaito.runtime.tune import preview
from kaito.runtime.tune.encoding import Encoder
from kaito.runtime.tune.estimate import PEAKS, REACHED, Tokens, hours, memory_gib, padding_share
from kaito.runtime.tune.fitting import bytes_with, shape_with
from kaito.runtime.tune.survey import Survey

DEFAULT_LENGTH = 1024
EPOCHS = 3.0
"""What the trainer does where nothing is said."""
BITS: Mapping[TuningMethod, int] = {"lora": 16, "qlora": 4, "full": 32}
"""Of a weight, as it is loaded on a GPU."""
BAR = 40


def main(argv: list[str]) -> int:
    """Print what is found; 0, or 1 when the data cannot be trained on."""
    parser = preview.parser()
    parser.add_argument("--model", type=Path, required=True)
    given = parser.parse_args(argv[1:])

    def more(found: Survey, options: TrainingOptions) -> list[str]:
        tokens = tokens_of(found, options, given.model)
        return [*tokens_described(tokens), *costs(tokens, options, given.model)]

    return preview.run(given, more)


def tokens_of(found: Survey, options: TrainingOptions, model: Path) -> Tokens:
    """The lengths of a sample in the model's tokens."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    if options.model.chat_template:
        tokenizer.chat_template = options.model.chat_template
    limit = int(options.training.get("max_length") or DEFAULT_LENGTH)
    examples = [example for example in found.sample if example.chosen is None]
    lengths = tuple(len(encoded.input_ids) for encoded in Encoder(tokenizer, False).encode(examples))
    return Tokens(lengths, found.usable_rows, limit)


def tokens_described(tokens: Tokens) -> list[str]:
    """The histogram, and what becomes of the tokens."""
    most = max((count for _, count in tokens.histogram()), default=1) or 1
    bars = [f"  {name:>13} {'#' * (BAR * count // most)} {count}" for name, count in tokens.histogram()]
    padded = padding_share(tokens.sample, 8, tokens.limit)
    return [
        f"Tokens of {len(tokens.sample)} rows that were looked at, {tokens.mean:.0f} on the average:",
        *bars,
        f"About {tokens.total} tokens in all; {100 * tokens.truncated:.1f} % of the rows have more than {tokens.limit}",
        f"Without packing, {100 * padded:.0f} % of what is computed would be padding (at eight rows a batch)",
    ]


def costs(tokens: Tokens, options: TrainingOptions, model: Path) -> list[str]:
    """Memory of a GPU and time, for each method and some GPUs."""
    config = AutoConfig.from_pretrained(model)
    if type(config) not in AutoModelForCausalLM._model_mapping:
        return []
    with torch.device("meta"):
        outline = AutoModelForCausalLM.from_config(config)
    length = tokens.limit or DEFAULT_LENGTH
    shapes = {method: shape_with(outline, method, bytes_with(outline, bits, 2), is_checkpointed=True)
              for method, bits in BITS.items()}  # fmt: skip
    needs = ", ".join(f"{method} {memory_gib(shape, batch=1, length=length):.1f}" for method, shape in shapes.items())
    epochs = float(options.training.get("num_train_epochs") or EPOCHS)
    times = (
        f"{duration(3600 * hours(epochs * tokens.total, shapes['lora'], flops=REACHED * peak))} ({name})"
        for name, peak in PEAKS.items()
    )
    return [
        f"Memory of a GPU for one row of {length} tokens at once, estimated: {needs} GiB",
        f"Time of {epochs:g} epochs on one GPU that is used well, estimated: {', '.join(times)}",
    ]


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(1, round(seconds))} seconds"


if __name__ == "__main__":
    sys.exit(main(sys.argv))
