# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How a change reaches a model that is spread over several pods: all of them start anew at once. Pure.

A StatefulSet replaces one pod, waits until that is ready, and goes on to the next. The pods of one model are ready only
together, and serve only beside ranks of the same settings: the first new one would never be ready, and the roll would
stand for good.
"""

from __future__ import annotations

from collections.abc import Iterable

from kaito.kube.manifest import Manifest, is_deleting, key_of, labels_of
from kaito.kube.plan import Delete
from kaito.kube.resource import PODS

POD_REVISION_LABEL = "controller-revision-hash"
"""On each pod of a StatefulSet: which of its revisions it was made from."""


def outdated_ranks(stateful_set: Manifest | None, pods: Iterable[Manifest]) -> tuple[Delete, ...]:
    """The StatefulSet's pods to remove, once its controller says that a roll has begun; it makes new ones.

    Nothing is removed on the word of a status that is older than the spec: it names an earlier revision as the newest.
    """
    if stateful_set is None:
        return ()
    said = stateful_set.get("status") or {}
    newest = said.get("updateRevision")
    is_rolling = newest and newest != said.get("currentRevision")
    if not is_rolling or said.get("observedGeneration", 0) < stateful_set["metadata"].get("generation", 0):
        return ()
    outdated = (pod for pod in pods if labels_of(pod).get(POD_REVISION_LABEL) != newest and not is_deleting(pod))
    return tuple(Delete(PODS, key_of(pod), uid=pod["metadata"]["uid"]) for pod in outdated)
