# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets of a Hugging Face hub, as users write them among the addresses of a tuning.

`hf://datasets/ORG/NAME@REVISION/PATH?config=CONFIG&split=SPLIT`, everything behind the name left out where the default
will do. Up to the path it is the form that Hugging Face's own libraries read
(https://huggingface.co/docs/huggingface_hub/guides/hf_file_system). Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

SCHEME: Final = "hf://"
PREFIX: Final = "hf://datasets/"
DEFAULT_SPLIT: Final = "train"
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
# Revisions with a slash in them are written with %2F, but those that the hub itself makes.
_REVISION = re.compile(r"refs/(?:convert|pr)/\w+|[^/]+")


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set, and which of it."""

    repository: str
    """`org/name`."""
    revision: str = ""
    """A branch, a tag or a commit; empty for the repository's default branch."""
    path: str = ""
    """A file, a folder, or a pattern with `*`; empty for all of it."""
    config: str = ""
    """One of the configurations that the data set's card names; empty for its default."""
    split: str = ""
    """Empty for `train`."""

    def __str__(self) -> str:
        revision = f"@{quote(self.revision, safe='')}" if self.revision else ""
        path = f"/{quote(self.path, safe='/*?')}" if self.path else ""
        given = {"config": self.config, "split": self.split}
        query = urlencode({key: value for key, value in given.items() if value})
        return f"{PREFIX}{self.repository}{revision}{path}{f'?{query}' if query else ''}"


def is_dataset(address: str) -> bool:
    """Whether the address names something of a hub and not of the web."""
    return address.strip().lower().startswith(SCHEME)


def is_id(text: str) -> bool:
    """Whether the text has the form `org/name`."""
    return _ID.fullmatch(text) is not None


def parse(address: str) -> Dataset:
    """The data set that is written; raises ValueError with what is wrong, to go on with "ADDRESS …"."""
    rest = address.strip()
    if not rest.startswith(PREFIX):
        raise ValueError(f"must begin with {PREFIX}, the name of a data set behind it")
    rest, _, query = rest.removeprefix(PREFIX).partition("?")
    organisation, _, rest = rest.partition("/")
    name = re.match(r"[^/@]*", rest)
    assert name is not None
    repository, rest = f"{organisation}/{name[0]}", rest[name.end() :]
    if not is_id(repository):
        raise ValueError(f"must name a data set as {PREFIX}org/name")
    revision = ""
    if rest.startswith("@"):
        match = _REVISION.match(rest[1:])
        if match is None:
            raise ValueError("has nothing behind the @: write a branch, a tag or a commit")
        revision, rest = unquote(match[0]), rest[1 + match.end() :]
    path = unquote(rest).strip("/")
    if any(part in ("..", ".") for part in path.split("/")):
        raise ValueError("has a path that leads elsewhere: name a file or a folder of the data set")
    return Dataset(repository, revision, path, **_chosen(query))


def problem(address: str) -> str | None:
    """What is wrong with the address, ready to stand behind a field's path, or None."""
    try:
        parse(address)
    except ValueError as error:
        return str(error)
    return None


def _chosen(query: str) -> dict[str, str]:
    found = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(found.keys() - {"config", "split"})
    if unknown:
        raise ValueError(f"has the unknown word {unknown[0]}: config and split may stand behind the question mark")
    return found
