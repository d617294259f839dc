# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a Workspace's status says of its speed: the figures that the first pod's model server found once it was Ready.

A server measures itself once, in a moment without requests, and says so in its log; the figures are those of a revision
of the pods, and go when another revision is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pydantic import ValidationError

from kaito.api.contracts import SERVE_CONFIG_KEY, BenchmarkResult, ServeConfig
from kaito.api.names import (
    BENCHMARK_ANNOTATION,
    BENCHMARK_COMPLETED,
    BENCHMARK_MARK,
    REASON_BENCHMARK_COMPLETED,
    REASON_BENCHMARK_FAILED,
)
from kaito.kube.manifest import Manifest, condition_of, is_true, labels_of, parse_time
from kaito.operator.faults.fault import MAX_MESSAGE_BYTES, sentences, short
from kaito.operator.provisioners.wish import Verdict

PEAK = "peakTokensPerMinute"
"""KAITO's name; its InferenceSets add these up."""
REVISION_LABEL = "controller-revision-hash"
TOLD_WITHIN_S = 900.0
"""From Ready: a server waits five minutes for a quiet moment, and measures for one."""
SOONEST_S = 20.0
"""A light load takes ten seconds, and begins after five."""


def latest_result(lines: Sequence[str]) -> BenchmarkResult | None:
    """The last result that a log tells."""
    for line in reversed(lines):
        _, mark, text = line.partition(BENCHMARK_MARK)
        if mark:
            try:
                return BenchmarkResult.model_validate_json(text.partition(" ")[2])
            except ValidationError:
                continue
    return None


def measuring_pod(
    workspace: Manifest, stateful_set: Manifest | None, serve_config: Manifest | None, pods: Sequence[Manifest]
) -> Manifest | None:
    """The pod whose figures are not known yet; None where there is nothing to be measured or all is known."""
    pod = _first(stateful_set, pods)
    if pod is None or not is_true(pod, "Ready") or _failed(workspace, pod):
        return None
    known = _revision((workspace.get("status") or {}).get("performance"))
    if known and known == labels_of(pod).get(REVISION_LABEL):
        return None
    return pod if _measures(serve_config) else None


def look_again_s(pod: Manifest, result: BenchmarkResult | None, now: datetime) -> float | None:
    """When the pod's figures are to be looked for again, more and more seldom; None when they are here or late."""
    since = (condition_of(pod, "Ready") or {}).get("lastTransitionTime")
    if result is not None or not since:
        return None
    age = (now - parse_time(since)).total_seconds()
    return max(SOONEST_S, age) if age < TOLD_WITHIN_S else None


def performance(pod: Manifest, result: BenchmarkResult, quantization: str | None) -> Manifest | None:
    """What `status.performance` says of a pod's result; None when nothing could be measured."""
    if result.vllm_total_tpm <= 0:
        return None
    return {"metrics": _metrics(result, labels_of(pod).get(REVISION_LABEL, ""), quantization or "")}


def verdict(
    workspace: Manifest,
    stateful_set: Manifest | None,
    pods: Sequence[Manifest],
    *,
    known: Manifest | None,
    result: BenchmarkResult | None,
) -> Verdict | None:
    """The condition BenchmarkCompleted: True with figures, False where a server could not measure itself; None where
    nothing was to be measured or it is not known yet. `known` is what `status.performance` says, `result` what the
    first pod has told. A model that could not be measured is served all the same: Ready does not depend on it."""
    if known is not None:
        peak = (known.get("metrics") or {}).get(PEAK) or {}
        said = f"{peak.get('value', '')} {peak.get('unit', '')} under {peak.get('description', 'load')}.".strip()
        return Verdict(True, REASON_BENCHMARK_COMPLETED, said)
    if result is not None:
        return Verdict(False, REASON_BENCHMARK_FAILED, _why_not(result.problem))
    pod = _first(stateful_set, pods)
    failed = _failed(workspace, pod) if pod is not None and is_true(pod, "Ready") else None
    return None if failed is None else Verdict(False, REASON_BENCHMARK_FAILED, str(failed.get("message") or ""))


def _why_not(problem: str) -> str:
    step = f"It is served all the same. Delete the first pod to try again; {BENCHMARK_ANNOTATION}: light asks less."
    said = sentences(f"Not measured: {problem or 'the log does not say why'}")
    return f"{short(said, MAX_MESSAGE_BYTES - len(f'… {step}'.encode()))} {step}"


def _failed(workspace: Manifest, pod: Manifest) -> Manifest | None:
    """The condition that says that the pod could not measure itself since it is Ready; None where it does not."""
    condition = condition_of(workspace, BENCHMARK_COMPLETED)
    if condition is None or condition.get("status") != "False":
        return None
    since = (condition_of(pod, "Ready") or {}).get("lastTransitionTime")
    told = condition.get("lastTransitionTime")
    return condition if since and told and parse_time(since) <= parse_time(told) else None


def _first(stateful_set: Manifest | None, pods: Sequence[Manifest]) -> Manifest | None:
    """The pod that measures itself."""
    if stateful_set is None:
        return None
    first = f"{stateful_set['metadata']['name']}-0"
    return next((pod for pod in pods if pod["metadata"]["name"] == first), None)


def still_true(performance: Manifest | None, stateful_set: Manifest | None) -> Manifest | None:
    """The figures that were known, unless they are of another revision than the one that is served."""
    served = ((stateful_set or {}).get("status") or {}).get("updateRevision")
    known = _revision(performance)
    return None if served and known and known != served else performance


def _metrics(result: BenchmarkResult, revision: str, quantization: str) -> Manifest:
    config = {
        "durationSec": f"{result.duration_sec:g}",
        "inputTokens": str(result.input_tokens),
        "outputTokens": str(result.output_tokens),
        "maxConcurrency": str(result.max_concurrency),
        "engine": result.engine,
        "engineVersion": result.engine_version,
        "quantization": quantization,
        "revision": revision,
    }
    config = {name: value for name, value in config.items() if value}
    load = "stress/high-concurrency" if result.load == "full" else "light load"
    found = {PEAK: _metric(load, result.vllm_total_tpm, "tokens/min", config)}
    for name, value in (("timeToFirstToken", result.ttft_avg_ms), ("timePerOutputToken", result.tpot_avg_ms)):
        if value > 0:
            found[name] = _metric(f"mean, {load}", value, "ms", {})
    return found


def _metric(description: str, value: float, unit: str, config: Manifest) -> Manifest:
    metric: Manifest = {"description": description, "value": f"{value:.2f}", "unit": unit}
    return {**metric, "config": config} if config else metric


def _revision(performance: Manifest | None) -> str:
    metrics = (performance or {}).get("metrics") or {}
    return str(((metrics.get(PEAK) or {}).get("config") or {}).get("revision") or "")


def _measures(serve_config: Manifest | None) -> bool:
    text = ((serve_config or {}).get("data") or {}).get(SERVE_CONFIG_KEY)
    try:
        return text is not None and ServeConfig.model_validate_json(text).benchmark != "off"
    except ValidationError:
        return False
