# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a run's data are, noted beside its state: the commit of each data set of a hub, and a hash of all files.

A run that goes on elsewhere takes the same commits, whatever the branch has become; where the data are others
nevertheless, its checkpoints are of another training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from kaito.api.contracts import Contract, FetchItem, HubSource, TuneConfig
from kaito.api.datasets import Dataset
from kaito.api.names import REASON_NOT_SUPPORTED_HERE
from kaito.runtime.artifacts.hub import commit_of
from kaito.runtime.artifacts.transport import Transport
from kaito.runtime.failure import Failed
from kaito.runtime.settings import Settings
from kaito.runtime.tune.checkpoints import remove_all
from kaito.runtime.tune.job import read, state_dir, write
from kaito.runtime.tune.progress import say

FILE = "origin.json"


class Origin(Contract):
    """What a run's data are."""

    commits: dict[str, str] = Field(default_factory=dict)
    """By data set and the revision that was asked for."""
    sha256: str = ""
    """Over all files; empty until they were looked at."""


def origin_of(output: Path) -> Origin:
    """What was noted; empty where nothing was."""
    return read(state_dir(output) / FILE, Origin) or Origin()


def note(output: Path, origin: Origin) -> None:
    """Keep it."""
    write(state_dir(output) / FILE, origin)


def pinned(config: TuneConfig, output: Path, settings: Settings) -> tuple[FetchItem, ...]:
    """What to fetch, data sets of a hub at the commits that were noted; those that were not are looked up and noted.

    Raises Failed when the hub does not say.
    """
    return tuple(_pinned(item, config, output, settings) for item in config.data)


def _pinned(item: FetchItem, config: TuneConfig, output: Path, settings: Settings) -> FetchItem:
    source = item.source
    if not isinstance(source, HubSource):
        return item
    if config.offline:
        what = f"The data set {source.repository} lies on a hub, and the operator may ask none (offline)."
        raise Failed(REASON_NOT_SUPPORTED_HERE, what, "Put the data on a volume or into an image.")
    known, key = origin_of(output), f"{source.repository}@{source.revision}"
    commit = known.commits.get(key)
    if commit is None:
        transport = Transport(settings.path(config.ca_file) if config.ca_file else None)
        try:
            commit = commit_of(source, transport, settings)
        finally:
            transport.close()
        note(output, known.model_copy(update={"commits": {**known.commits, key: commit}}))
    return item.model_copy(update={"source": source.model_copy(update={"revision": commit})})


def data_sets(items: Sequence[FetchItem]) -> tuple[str, ...]:
    """The data sets of hubs among them, as users write them."""
    sources = [item.source for item in items if isinstance(item.source, HubSource)]
    return tuple(str(Dataset(**one.model_dump(exclude={"kind"}))) for one in sources)


def note_content(output: Path, sha256: str) -> None:
    """Note the hash of all files; checkpoints of a training on other files are removed, and that is said."""
    known = origin_of(output)
    if known.sha256 not in ("", sha256):
        say("the data have changed since the last checkpoint: the training begins anew")
        remove_all(output)
    note(output, known.model_copy(update={"sha256": sha256}))
