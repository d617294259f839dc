# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Indexed Jobs: each pod has a number, and each number has to succeed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from kaito.engine.controllers import pods as pod
from kaito.kube.manifest import Manifest, annotations_of

if TYPE_CHECKING:
    from kaito.engine.controllers.tally import Tally

INDEX = "batch.kubernetes.io/job-completion-index"
"""Label and annotation of an indexed pod."""
TRACKING = "batch.kubernetes.io/job-tracking"


def is_indexed(job: Manifest) -> bool:
    """Whether the Job numbers its pods."""
    return bool(job["spec"].get("completionMode") == "Indexed")


def index_of(p: Manifest) -> int | None:
    """The pod's number, if it has one."""
    text = annotations_of(p).get(INDEX, "")
    return int(text) if text.isdigit() else None


def ranges(numbers: Iterable[int]) -> str:
    """`0,2-4` for 0, 2, 3, 4: the form of `status.completedIndexes`. Two neighbours are written `0,1`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    texts = []
    for part in parts:
        if len(part) > 2:
            texts.append(f"{part[0]}-{part[-1]}")
        else:
            texts += [str(number) for number in part]
    return ",".join(texts)


def parse_ranges(text: str) -> set[int]:
    """The numbers that `ranges` wrote."""
    numbers: set[int] = set()
    for part in text.split(",") if text else []:
        first, _, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


def completed(job: Manifest, succeeded: list[Manifest]) -> frozenset[int]:
    """The numbers that have succeeded, by status or by a pod."""
    if not is_indexed(job):
        return frozenset()
    known = parse_ranges((job.get("status") or {}).get("completedIndexes") or "")
    seen = {index for p in succeeded if (index := index_of(p)) is not None}
    return frozenset(n for n in known | seen if n < int(job["spec"]["completions"]))


def matched_rule(job: Manifest, succeeded: frozenset[int]) -> int | None:
    """The first rule of the Job's success policy that the numbers that have succeeded fulfil; None without one."""
    if not is_indexed(job):
        return None
    for place, rule in enumerate((job["spec"].get("successPolicy") or {}).get("rules") or []):
        named = rule.get("succeededIndexes")
        asked = set(range(int(job["spec"]["completions"]))) if named is None else parse_ranges(named)
        if len(asked & succeeded) >= rule.get("succeededCount", len(asked)):
            return place
    return None


def free(job: Manifest, counted: Tally) -> Iterator[int]:
    """The lowest numbers that neither run nor have succeeded."""
    running = {index_of(p) for p in counted.active}
    return (n for n in range(int(job["spec"]["completions"])) if n not in counted.completed_indexes | running)


def duplicates(job: Manifest, counted: Tally) -> list[Manifest]:
    """Active pods that are not needed: their number has succeeded, or another active pod has it."""
    if not is_indexed(job):
        return []
    seen: set[int | None] = set(counted.completed_indexes)
    surplus = []
    for p in sorted(counted.active, key=pod.created_at):
        if index_of(p) in seen:
            surplus.append(p)
        seen.add(index_of(p))
    return surplus


def indexed_pod(job: Manifest, index: int, *, seed: tuple[str, ...], taken: set[str]) -> Manifest:
    """The pod of a number: it finds the number in its host name, a label and `JOB_COMPLETION_INDEX`."""
    prefix = f"{job['metadata']['name']}-{index}-"
    name = next(n for n in pod.generated_names(prefix, *seed, str(index)) if n not in taken)
    made = pod.pod_from_template(
        job["spec"]["template"],
        job,
        name=name,
        generate_name=prefix,
        labels={INDEX: str(index)},
        annotations={INDEX: str(index)},
        finalizers=(TRACKING,),
    )
    spec = made["spec"]
    spec.setdefault("hostname", f"{job['metadata']['name']}-{index}"[:63].rstrip("-."))
    for field in ("initContainers", "containers"):
        if field in spec:
            spec[field] = [_with_index(container) for container in spec[field]]
    return made


def _with_index(container: Manifest) -> Manifest:
    env = container.get("env") or []
    if any(entry["name"] == "JOB_COMPLETION_INDEX" for entry in env):
        return container
    source = {"fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.labels['{INDEX}']"}}
    return {**container, "env": [*env, {"name": "JOB_COMPLETION_INDEX", "valueFrom": source}]}
