# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How a tuning stands: by its Job's conditions, its pods, and what they say of themselves.

`tuning.py` makes the Job; what the verdict comes to in the status is in `status.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import ValidationError

from kaito.api import names
from kaito.api.contracts import (
    TuneProgress,
)
from kaito.catalog.models import ModelFacts
from kaito.kube.manifest import (
    Manifest,
    condition_of,
    controller_of,
    is_deleting,
    is_true,
    labels_of,
)
from kaito.operator.faults.table import named
from kaito.operator.provisioners.wish import Verdict
from kaito.operator.workspace import failures
from kaito.operator.workspace.containers import statuses
from kaito.operator.workspace.figures import GIB, duration
from kaito.operator.workspace.observe import Observed
from kaito.operator.workspace.progress import progress_of

Stage = Literal["Pending", "Running", "Succeeded", "Failed"]
LOOK_AGAIN_S = 5.0
"""How often the status of a running tuning is brought up to date."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a tuning stands."""

    stage: Stage
    verdict: Verdict
    progress: TuneProgress | None = None


def standing(observed: Observed, model: ModelFacts) -> Standing:
    """How the Job stands, by its conditions, its pods and what they say."""
    existing, ours = observed.job, sorted(_pods(observed), key=rank_of)
    wanted_pods = int(existing["spec"].get("parallelism") or 1) if existing else 1
    if existing is None or is_deleting(existing):
        return Standing("Pending", _pending("Waiting for the Job to be created."))
    if is_true(existing, "Complete"):
        done = _last_words(ours)
        said = f"{model.id} is tuned{_outcome(done)}."
        return Standing("Succeeded", Verdict(True, names.REASON_TUNING_STARTED, said), done)
    if is_true(existing, "Failed") or is_true(existing, "FailureTarget"):
        return Standing("Failed", _failed(observed, existing, ours))
    cause = failures.cause_of([pod for pod in ours if not _has_ended(pod)], observed.warnings)
    refusal = failures.refusal_of(existing, observed.warnings) if not ours else None
    told = cause or refusal
    if told is not None:
        reason = told.condition if told.condition != names.REASON_INFERENCE_PENDING else names.REASON_TUNING_PENDING
        return Standing("Pending", Verdict(False, reason, told.message, diagnosis=told))
    if any(_runs(pod) for pod in ours):
        runs = Verdict(
            True, names.REASON_TUNING_STARTED, _running(observed.progress) + _absent(ours, observed, wanted_pods)
        )
        return Standing("Running", runs, observed.progress)
    again = [pod for pod in ours if (pod.get("status") or {}).get("phase") == "Failed"]
    if again:
        last = failures.cause_of(again[-1:], observed.warnings)
        why = f" {last.message}" if last else ""
        return Standing("Pending", _pending(f"The pod failed and is started anew.{why}"))
    return Standing("Pending", _pending(progress_of(ours, wanted_pods)))


def rank_of(pod: Manifest) -> int:
    """The pod's index in its Job; 0 in a Job of one pod."""
    text = labels_of(pod).get(names.COMPLETION_INDEX_LABEL, "")
    return int(text) if text.isdigit() else 0


def _absent(ours: Sequence[Manifest], observed: Observed, wanted_pods: int) -> str:
    """Which ranks do not run while others do, and why, as the end of a message."""
    running = {rank_of(pod) for pod in ours if _runs(pod)}
    absent = [rank for rank in range(wanted_pods) if rank not in running]
    if not absent:
        return ""
    theirs = [pod for pod in ours if rank_of(pod) == absent[0]]
    cause = failures.cause_of(theirs, observed.warnings)
    why = f" {cause.message}" if cause else ""
    who = f"Rank {absent[0]}{_where(theirs)}" if len(absent) == 1 else f"Ranks {', '.join(map(str, absent))}"
    return f" {who} {'is' if len(absent) == 1 else 'are'} waited for: all go on from the last checkpoint then.{why}"


def _where(pods_: Sequence[Manifest]) -> str:
    if not pods_:
        return ""
    node = (pods_[-1].get("spec") or {}).get("nodeName")
    return f" (pod {pods_[-1]['metadata']['name']}{f' on node {node}' if node else ''})"


def _pods(observed: Observed) -> list[Manifest]:
    uid = observed.job["metadata"].get("uid") if observed.job else None
    return [pod for pod in observed.pods if (controller_of(pod) or {}).get("uid") == uid]


def _pending(message: str) -> Verdict:
    return Verdict(False, names.REASON_TUNING_PENDING, message)


def _has_ended(pod: Manifest) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _runs(pod: Manifest) -> bool:
    return any((status.get("state") or {}).get("running") for status in statuses(pod, "containerStatuses"))


def _failed(observed: Observed, existing: Manifest, ours: Sequence[Manifest]) -> Verdict:
    # A rank mostly ends for another one's sake; who says why itself is told of first.
    cause = failures.cause_of(ours, observed.warnings)
    if cause is not None and int(existing["spec"].get("parallelism") or 1) > 1:
        guilty = next((pod for pod in ours if failures.cause_of([pod], observed.warnings) == cause), None)
        if guilty is not None:
            cause = replace(cause, lead=f"Rank {rank_of(guilty)}{_where([guilty])}: {cause.lead}")
    if cause is None:
        said = (condition_of(existing, "Failed") or condition_of(existing, "FailureTarget") or {}).get("message", "")
        cause = named(names.REASON_TUNING_FAILED, said or "the Job failed")
    if cause.condition in (names.REASON_ENGINE_FAILED, names.REASON_CRASH_LOOP):
        cause = cause.told_as(names.REASON_TUNING_JOB_FAILED)
    return Verdict(False, cause.condition, cause.message, diagnosis=cause)


def _last_words(ours: Iterable[Manifest]) -> TuneProgress | None:
    """What the pod that succeeded, the first of several, left as its termination message."""
    for pod in (pod for pod in ours if rank_of(pod) == 0):
        for status in statuses(pod, "containerStatuses"):
            ended = (status.get("state") or {}).get("terminated") or {}
            if ended.get("exitCode") == 0:
                try:
                    return TuneProgress.model_validate_json(ended.get("message") or "")
                except ValidationError:
                    continue
    return None


def _outcome(done: TuneProgress | None) -> str:
    if done is None:
        return ""
    loss = f", final loss {done.loss:.4g}" if done.loss is not None else ""
    pushed = f", pushed as {done.image} ({done.digest[:19]}…)" if done.digest else ""
    return f"{loss}{pushed}"


def _running(progress: TuneProgress | None) -> str:
    """What the pod is at, without figures that tick: those are in `status.tuning`."""
    if progress is None:
        return "The tuning runs."
    at = {"Fetching": "fetches its data", "Checking": "checks its data", "Preparing": "prepares its data",
          "Training": "trains", "Saving": "saves the result", "Pushing": "pushes the result"}  # fmt: skip
    note = f" {progress.note}" if progress.note else ""
    return f"The tuning {at.get(progress.phase, 'runs')}.{note}"


def tuning_status(progress: TuneProgress | None, before: Manifest | None) -> Manifest | None:
    """`status.tuning`; what was known stays where nothing newer is."""
    if progress is None:
        return before or None
    figures: Manifest = {
        "phase": progress.phase,
        "progress": _share(progress),
        "step": progress.step,
        "totalSteps": progress.steps,
        "epoch": None if progress.epoch is None else f"{progress.epoch:.2f}",
        "loss": None if progress.loss is None else f"{progress.loss:.4f}",
        "evalLoss": None if progress.eval_loss is None else f"{progress.eval_loss:.4f}",
        "tokensPerSecond": None if progress.tokens_per_second is None else f"{progress.tokens_per_second:.0f}",
        "eta": None if progress.eta_s is None else duration(progress.eta_s),
        "gpuMemory": None if progress.gpu_memory_gib is None else f"{progress.gpu_memory_gib:.1f}{GIB}",
        "rows": progress.rows,
        "note": progress.note or None,
        "image": progress.image or None,
        "digest": progress.digest or None,
    }
    return {field: value for field, value in figures.items() if value is not None}


def _share(progress: TuneProgress) -> str | None:
    if progress.step is None or not progress.steps:
        return None
    return f"{progress.step}/{progress.steps} ({100 * progress.step // progress.steps}%)"
