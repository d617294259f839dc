# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a tuning would find in a data set, for people: `python -m kaito.runtime.tune.preview FOLDER`.

The check that a pod makes first, without a pod; with a model's folder also tokens, and what would be cut or padded. A
data set of a hub is fetched into a folder that keeps it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from transformers import AutoTokenizer

from kaito.api.contracts import FetchConfig, FetchItem, HubSource
from kaito.api.datasets import is_dataset, parse
from kaito.api.training import TrainingOptions
from kaito.runtime.artifacts.fetch import fetch_item, source_hash
from kaito.runtime.artifacts.hub import commit_of
from kaito.runtime.artifacts.transport import Transport
from kaito.runtime.failure import Failed
from kaito.runtime.settings import from_environment
from kaito.runtime.tune.encoding import Encoder
from kaito.runtime.tune.estimate import Tokens, padding_share
from kaito.runtime.tune.options import read_options
from kaito.runtime.tune.origin import data_sets
from kaito.runtime.tune.survey import Survey, survey

DEFAULT_LENGTH = 1024
BAR = 40
MIB = 1 << 20


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="kaito tune check")
    made.add_argument("data", help="a file, a folder, or hf://datasets/org/name")
    made.add_argument("--keep", type=Path, help="where data sets of hubs are kept")
    made.add_argument("--config", type=Path)
    made.add_argument("--method", default="lora")
    made.add_argument("--model", type=Path)
    return made


def main(argv: list[str]) -> int:
    """Print what is found; 0, or 1 when the data cannot be trained on."""
    given = parser().parse_args(argv[1:])
    try:
        options = read_options(given.config, given.method) if given.config else TrainingOptions()
        folder = fetched(given.data, given.keep) if is_dataset(given.data) else Path(given.data)
        found = survey(folder, options.dataset)
        for line in described(found):
            print_line(line)
        if given.model is not None:
            for line in tokens_described(tokens_of(found, options, given.model)):
                print_line(line)
    except Failed as error:
        print_line(f"{error.failure.reason}: {error.failure.message}")
        print_line(error.failure.next_step)
        return 1
    return 0


def fetched(address: str, keep: Path) -> Path:
    """The folder with the data set as its revision is now; raises Failed."""
    settings = from_environment()
    source = HubSource(**asdict(parse(address)))
    transport = Transport()
    try:
        commit = commit_of(source, transport, settings)
    finally:
        transport.close()
    source = source.model_copy(update={"revision": commit})
    item = FetchItem(name=source.repository, source=source, destination="")
    place = keep / f"{source.repository.replace('/', '--')}-{source_hash(item)[:12]}"
    item = item.model_copy(update={"destination": str(place)})
    sys.stderr.write(f"Fetching {data_sets([item])[0]}\n")
    got = fetch_item(item, FetchConfig(items=(item,)), settings)
    print_line(f"{data_sets([item])[0]}: {got.bytes / MIB:.1f} MiB in {place}")
    return place


def print_line(line: str) -> None:
    """One line for the user."""
    sys.stdout.write(line + "\n")


def described(found: Survey) -> list[str]:
    """Files, rows, and rows that cannot be used."""
    files = [f"{name}: {schema}" for name, schema in found.schemas.items()]
    bad = [f"  {bad.place}: {bad.why}" for bad in found.bad]
    more = [f"  and {found.bad_rows - len(bad)} more"] if found.bad_rows > len(bad) else []
    counted = f"{found.rows} rows, {found.usable_rows} of them can be trained on"
    return [*files, counted, *(["Left out:"] if bad else []), *bad, *more]


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


if __name__ == "__main__":
    sys.exit(main(sys.argv))
