# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which files of a data set's repository are wanted: one configuration's, and of it one split's. Pure.

What the data set's card (the head of its README.md) says of its files counts
(https://huggingface.co/docs/hub/datasets-manual-configuration); without that, the words in the files' names do, as
Hugging Face's own library has it. A test set is never trained on because it lies beside the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from kaito.api.contracts import HubSource
from kaito.api.datasets import DEFAULT_SPLIT
from kaito.api.names import REASON_ARTIFACT_INVALID, REASON_ARTIFACT_NOT_FOUND
from kaito.runtime.failure import Failed
from kaito.runtime.formats import holds_rows

WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""The words in a file's path that stand for a split."""
_SHARD = re.compile(r"(\w+(?:\.\w+)*)-\d{5}-of-\d{5}.*")


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration that a card names."""

    name: str
    patterns: Mapping[str, tuple[str, ...]]
    """By split, which files are its."""
    is_default: bool = False


def chosen(files: Sequence[str], card: str, source: HubSource) -> list[str]:
    """The files to fetch, sorted; raises Failed with what there is when nothing is as wanted."""
    data = sorted(name for name in files if holds_rows(name))
    if source.path:
        data = _below(data, files, source)
        if data == [source.path] or "*" in source.path:
            return data
    if not data:
        raise _none(files, source)
    config = _config(configs(card), source)
    if config is not None and not (source.path and not source.config):
        return _of_config(data, files, config, source)
    return _of_split(_by_words(data), source)


def _below(data: Sequence[str], files: Sequence[str], source: HubSource) -> list[str]:
    """The files at the path, in the folder, or of the pattern."""
    pattern = _pattern(source.path)
    there = [
        name for name in data if name == source.path or name.startswith(f"{source.path}/") or pattern.fullmatch(name)
    ]
    if not there:
        any_there = [name for name in files if name == source.path or pattern.fullmatch(name)]
        raise _none(any_there, source) if any_there else _nothing(source, source.path, top_level(files))
    return there


def configs(card: str) -> list[Config]:
    """The configurations that a card names with their files; none where it has no such head."""
    match = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(\n|$)", card, re.DOTALL)
    try:
        head = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        return []
    listed = head.get("configs") if isinstance(head, dict) else None
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    found = (_read_config(entry) for entry in entries)
    return [config for config in found if config.patterns]


def _read_config(entry: Mapping[str, Any]) -> Config:
    folder = str(entry.get("data_dir") or "").strip("/")
    given = entry.get("data_files")
    if given is None and folder:
        given = [f"{folder}/**"]
        folder = ""
    patterns: dict[str, tuple[str, ...]] = {}
    for split, paths in _splits(given):
        listed = paths if isinstance(paths, list) else [paths]
        texts = [str(path).removeprefix("./") for path in listed if isinstance(path, str)]
        patterns[split] = (
            *patterns.get(split, ()),
            *(str(PurePosixPath(folder, text)) if folder else text for text in texts),
        )
    return Config(str(entry.get("config_name") or "default"), patterns, bool(entry.get("default")))


def _splits(given: object) -> Iterable[tuple[str, object]]:
    """Split and paths of `data_files`, in each of the forms that it may have."""
    if isinstance(given, dict):
        yield from ((str(split), paths) for split, paths in given.items())
    elif isinstance(given, list) and any(isinstance(one, dict) for one in given):
        for one in given:
            if isinstance(one, dict):
                yield str(one.get("split") or DEFAULT_SPLIT), one.get("path")
    elif given is not None:
        yield DEFAULT_SPLIT, given


def _config(known: Sequence[Config], source: HubSource) -> Config | None:
    """The configuration that is wanted; None where the card names none."""
    names = ", ".join(config.name for config in known[:20])
    if source.config:
        found = next((config for config in known if config.name == source.config), None)
        if found is None:
            raise _nothing(source, f"configuration {source.config}", names, "config")
        return found
    if len(known) <= 1:
        return known[0] if known else None
    default = next((one for one in known if one.is_default), None) or next(
        (one for one in known if one.name == "default"), None
    )
    if default is None:
        what = f"The data set {source.repository} has several configurations: {names}."
        raise Failed(REASON_ARTIFACT_INVALID, what, "Say which, with ?config=NAME at the end of its address.")
    return default


def _of_config(data: Sequence[str], files: Sequence[str], config: Config, source: HubSource) -> list[str]:
    split = source.split or DEFAULT_SPLIT
    if split not in config.patterns:
        raise _nothing(source, f"split {split}", ", ".join(config.patterns), "split")
    patterns = [_pattern(text) for text in config.patterns[split]]
    found = [name for name in data if any(pattern.fullmatch(name) for pattern in patterns)]
    if not found:
        raise _none([name for name in files if any(pattern.fullmatch(name) for pattern in patterns)], source)
    return found


def _by_words(data: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in data:
        found.setdefault(split_of(name), []).append(name)
    return found


def split_of(path: str) -> str:
    """The split that a file's path speaks of; `train` where it speaks of none."""
    whole = PurePosixPath(path)
    shard = _SHARD.fullmatch(whole.name)
    if shard is not None:
        return shard[1]
    for part in (whole.stem, *reversed(whole.parts[:-1])):
        words = re.findall(r"[a-z]+", part.lower())
        for split, known in WORDS.items():
            if any(word in known for word in words):
                return split
    return DEFAULT_SPLIT


def _of_split(found: Mapping[str, list[str]], source: HubSource) -> list[str]:
    split = source.split or DEFAULT_SPLIT
    if split not in found:
        raise _nothing(source, f"split {split}", ", ".join(sorted(found)), "split")
    return found[split]


def _pattern(text: str) -> re.Pattern[str]:
    """A pattern of paths: `*` and `?` stay in a folder, `**` does not."""
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", text)
    return re.compile("".join(words.get(part) or re.escape(part) for part in parts))


def top_level(files: Iterable[str]) -> str:
    """What lies at the top of a repository, for a message."""
    return ", ".join(list(dict.fromkeys(name.partition("/")[0] for name in sorted(files)))[:10])


def _nothing(source: HubSource, wanted: str, there: str, word: str = "") -> Failed:
    what = f"The data set {source.repository} has no {wanted}, but {there or 'nothing at all'}."
    step = f"Say which, with ?{word}=NAME at the end of its address." if word else "Correct the path in its address."
    return Failed(REASON_ARTIFACT_NOT_FOUND, what, step)


def _none(files: Sequence[str], source: HubSource) -> Failed:
    what = (
        f"The data set {source.repository} has no files with rows that can be read, but {top_level(files) or 'none'}."
    )
    step = "Choose one with parquet, jsonl, json, csv, arrow or txt files; its own code is never run."
    return Failed(REASON_ARTIFACT_INVALID, what, step)
