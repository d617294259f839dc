# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a tuning would find in a data set, for people: `python -m kaito.runtime.tune.preview FOLDER`.

The check that a pod makes first, without a pod. A data set of a hub is fetched into a folder that keeps it. What it
comes to with a model is `costs.py`'s, for which the libraries have to be loaded.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from kaito.api.contracts import FetchConfig, FetchItem, HubSource
from kaito.api.datasets import is_dataset, parse
from kaito.api.training import TrainingOptions
from kaito.runtime.artifacts.fetch import fetch_item, source_hash
from kaito.runtime.artifacts.hub import commit_of
from kaito.runtime.artifacts.transport import Transport
from kaito.runtime.failure import Failed
from kaito.runtime.settings import from_environment
from kaito.runtime.tune.options import read_options
from kaito.runtime.tune.origin import data_sets
from kaito.runtime.tune.survey import Survey, survey

MIB = 1 << 20


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="kaito tune check")
    made.add_argument("data", help="a file, a folder, or hf://datasets/org/name")
    made.add_argument("--keep", type=Path, help="where data sets of hubs are kept")
    made.add_argument("--config", type=Path)
    made.add_argument("--method", default="lora")
    return made


def main(argv: list[str]) -> int:
    """Print what is found; 0, or 1 when the data cannot be trained on."""
    return run(parser().parse_args(argv[1:]))


def run(given: argparse.Namespace, more: Callable[[Survey, TrainingOptions], Iterable[str]] = lambda *_: ()) -> int:
    """Print what is found, and what more is to be said of it; 0, or 1 when the data cannot be trained on."""
    try:
        options = read_options(given.config, given.method) if given.config else TrainingOptions()
        folder = fetched(given.data, given.keep) if is_dataset(given.data) else Path(given.data)
        found = survey(folder, options.dataset)
        for line in (*described(found), *more(found, options)):
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


if __name__ == "__main__":
    sys.exit(main(sys.argv))
