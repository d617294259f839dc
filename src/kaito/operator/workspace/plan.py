# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What should be done for one Workspace: its phases in order, from what was observed to a Plan.

Pure and total: a Workspace that makes no sense, a model that nobody knows or a ConfigMap that is missing become
conditions. Each phase is a module of this package; here is only which comes after which, and what stops the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from kaito.api import names
from kaito.api.contracts import BenchmarkResult
from kaito.api.meta import WORKSPACES
from kaito.catalog.models import ModelFacts
from kaito.kube.manifest import (
    Manifest,
    condition_of,
    controller_of,
    has_labels,
    is_deleting,
    key_of,
    labels_of,
)
from kaito.kube.plan import Create, Delete, Event, Patch, Plan
from kaito.kube.resource import DEPLOYMENTS, JOBS
from kaito.operator.faults.fault import Diagnosis
from kaito.operator.faults.table import found, named
from kaito.operator.provisioners.supply import Supply
from kaito.operator.provisioners.survey import Provisioner, is_ready
from kaito.operator.provisioners.trouble import cut
from kaito.operator.provisioners.wish import Verdict
from kaito.operator.settings import Settings
from kaito.operator.workspace import failures, ordering, serving, standing, starting, together, tuning
from kaito.operator.workspace.nodes import Placement, place
from kaito.operator.workspace.observe import FactsPending, Observed
from kaito.operator.workspace.performance import look_again_s, performance, still_true, verdict
from kaito.operator.workspace.problem import Problem
from kaito.operator.workspace.progress import progress_of
from kaito.operator.workspace.revision import Revision, current_revision, missing_annotations
from kaito.operator.workspace.rolling import outdated_ranks
from kaito.operator.workspace.services import headless_service, main_service
from kaito.operator.workspace.status import Report, deleting_status, events, status
from kaito.operator.workspace.timeline import Sighting
from kaito.operator.workspace.wanted import Tuning, UserConfig, Wanted, user_config, wanted

FACTS_POLL_S = 1.0
"""How soon a Workspace is looked at again whose model a hub is being asked about."""


@dataclass(frozen=True, slots=True)
class Work:
    """What the phases after the revision came to."""

    report: Report
    apply: tuple[Manifest, ...] = ()
    delete: tuple[Delete, ...] = ()
    supply: Supply | None = None
    """What the nodes come to, where they are ordered."""
    look_again_s: float | None = None
    """When what a pod says of itself is to be looked at again."""


def plan(observed: Observed, settings: Settings, provisioner: Provisioner, now: datetime) -> Plan:
    """Everything that should be done for the Workspace, given what was observed. Never raises for what users write."""
    workspace = observed.manifest
    if is_deleting(workspace):
        return _farewell(observed, provisioner, now)
    revision = current_revision(workspace, observed.revisions)
    work = _work(observed, settings, provisioner, revision, now)
    speed = _performance(observed)
    measured = verdict(workspace, observed.stateful_set, observed.pods, known=speed, result=_told(observed))
    sighting = _sighting(observed, work.report)
    seen = replace(work.report, sighting=sighting, performance=speed, benchmark=measured)
    work = replace(work, report=seen)
    fresh = status(workspace, work.report, now)
    superseded = _superseded(observed, work)
    supply = work.supply or Supply(Verdict(True, "", ""))
    return Plan(
        patches=(*_metadata_patch(workspace, revision, supply.annotations or {}), *supply.patches),
        apply=(*supply.apply, *work.apply),
        create=(*revision.create, *(Create(manifest) for manifest in supply.create)),
        delete=(*revision.delete, *superseded, *supply.delete, *work.delete),
        status=fresh,
        events=(*_migration(workspace, superseded), *supply.events, *events(workspace, fresh)),
        requeue_after_s=FACTS_POLL_S
        if isinstance(observed.model, FactsPending)
        else min(filter(None, (supply.requeue_after_s, work.look_again_s)), default=None),
        refused=_refusal(workspace, work, now),
    )


def _sighting(observed: Observed, report: Report) -> Sighting:
    """What can be seen of the steps to being ready."""
    return Sighting(
        orders=observed.orders,
        nodes_ready=report.nodes is not None and report.nodes.ok,
        pods=sorted(_pods(observed), key=lambda pod: str(pod["metadata"]["name"])),
        served=report.workload.ok,
        weights=starting.weights(observed.started),
        first_token=starting.first_token(observed.started),
    )


def _told(observed: Observed) -> BenchmarkResult | None:
    """What the pod that measures itself has told."""
    return observed.measured if observed.measuring is not None else None


def _performance(observed: Observed) -> Manifest | None:
    """What is known of the speed of the model server."""
    told = _told(observed)
    if observed.measuring is not None and told is not None:
        quantization = observed.model.quantization if isinstance(observed.model, ModelFacts) else None
        found = performance(observed.measuring, told, quantization)
        if found is not None:
            return found
    return still_true((observed.manifest.get("status") or {}).get("performance"), observed.stateful_set)


def _refusal(workspace: Manifest, work: Work, now: datetime) -> Callable[[Manifest, str], Plan]:
    """What is said when the server does not take something that should be made."""

    def refused(manifest: Manifest, said: str) -> Plan:
        what = f"{manifest['kind']} {manifest['metadata']['name']}"
        cause = found("api", said, seen=cut(said), lead=f"The API server refuses {what}: ")
        message = cause.message
        verdict = Verdict(False, cause.condition, message, is_failure=True, diagnosis=cause)
        report = replace(work.report, workload=verdict, is_failure=True)
        if not ordering.is_order(manifest, work.supply):
            fresh = status(workspace, report, now)
            return Plan(status=fresh, events=events(workspace, fresh))
        fresh = status(workspace, replace(report, claims=verdict), now)
        event = Event(workspace, names.EVENT_NODE_CLAIM_CREATION_FAILED, message, "Warning")
        return Plan(status=fresh, events=(event,))

    return refused


def _farewell(observed: Observed, provisioner: Provisioner, now: datetime) -> Plan:
    """Say so first, give back the nodes, then let go: the rest goes with the Workspace by its owner references."""
    workspace = observed.manifest
    finalizers = workspace["metadata"].get("finalizers") or []
    if names.WORKSPACE_FINALIZER not in finalizers:
        return Plan()
    if observed.orders:
        said = deleting_status(workspace, now, ordering.waits_for(observed.orders))
        return Plan(delete=ordering.give_back(observed.orders, provisioner), status=said)
    if condition_of(workspace, names.WORKSPACE_DELETING) is None:
        return Plan(status=deleting_status(workspace, now))
    kept = [finalizer for finalizer in finalizers if finalizer != names.WORKSPACE_FINALIZER]
    return Plan(patches=(_patch(workspace, {"finalizers": kept or None}),))


def _metadata_patch(workspace: Manifest, revision: Revision, noted: Mapping[str, str]) -> tuple[Patch, ...]:
    """One conditional write for the finalizer and the annotations (the revision's and others), where any is missing."""
    meta: Manifest = {}
    finalizers = workspace["metadata"].get("finalizers") or []
    if names.WORKSPACE_FINALIZER not in finalizers:
        meta["finalizers"] = [*finalizers, names.WORKSPACE_FINALIZER]
    annotations = {**missing_annotations(workspace, revision), **noted}
    if annotations:
        meta["annotations"] = annotations
    return (_patch(workspace, meta),) if meta else ()


def _patch(workspace: Manifest, meta: Manifest) -> Patch:
    # A list is replaced whole by a merge patch, so it must be the list that we have seen.
    version = workspace["metadata"]["resourceVersion"]
    return Patch(WORKSPACES, key_of(workspace), {"metadata": {"resourceVersion": version, **meta}})


def _work(observed: Observed, settings: Settings, provisioner: Provisioner, revision: Revision, now: datetime) -> Work:
    """The phases: what is wanted, its nodes, its workload with Services."""
    asked = wanted(observed, settings.default_runtime)
    if isinstance(asked, Wanted):
        taken = _taken(observed)
        asked = taken or asked
    if isinstance(asked, Problem):
        return Work(_stopped(observed, asked))
    if asked.tuning is not None and asked.model is not None:
        return _tuned(observed, asked, asked.tuning, settings, provisioner, revision, now)
    config = user_config(observed, asked.engine)
    length = config.max_model_len if isinstance(config, UserConfig) else None
    placement = place(asked, observed.nodes, provisioner, length)
    worker_nodes = _hosts(observed) if provisioner.single_node else placement.nodes
    spread = _over_several_nodes(asked, placement)
    of_use = placement.fits and spread is None and not isinstance(config, Problem)
    supply = ordering.supplied(observed, asked, placement, provisioner, now, may_order=of_use)
    placed = partial(_placed, placement, supply, worker_nodes)
    if isinstance(config, Problem):
        return Work(placed(_config_problem(observed, config), is_failure=True), supply=supply)
    if spread is not None:
        return Work(placed(spread, is_failure=True), supply=supply)
    missing = _missing_nodes(placement, supply)
    if missing is not None:
        return Work(placed(missing, is_failure=missing.is_failure), supply=supply)
    held = _held_back(observed, asked, placement, provisioner)
    if held is not None:
        return Work(placed(held), supply=supply, look_again_s=together.LOOK_AGAIN_S)
    rendering = serving.Rendering(
        observed.manifest, asked, placement, config, str(revision.number), observed.stateful_set
    )
    verdict, is_failure = _serving_verdict(observed, asked, placement)
    report = placed(verdict, is_failure=is_failure)
    again = _again_s(observed, now)
    if revision.is_adopted and serving.is_of_kaito(observed.stateful_set):
        return Work(report, supply=supply)  # It goes on as it is, until something else is asked for.
    outdated = outdated_ranks(observed.stateful_set, _pods(observed)) if placement.spread > 1 else ()
    apply = tuple(_manifests(rendering, settings))
    return Work(report, apply=apply, delete=outdated, supply=supply, look_again_s=again)


def _held_back(observed: Observed, asked: Wanted, placement: Placement, provisioner: Provisioner) -> Verdict | None:
    """Why a model over several nodes waits for others; what has begun goes on."""
    resource = asked.workspace.resource
    owns = provisioner.orders and resource is not None and bool(resource.instance_type)
    if placement.spread < 2 or owns or provisioner.single_node or observed.stateful_set is not None:
        return None
    names_ = set(placement.nodes)
    ready = [name for node in observed.nodes if (name := node["metadata"]["name"]) in names_ and is_ready(node)]
    return together.held_back(observed.manifest, placement.target, ready, observed.rivals())


def _again_s(observed: Observed, now: datetime) -> float | None:
    """When what the first pod says of itself is to be looked at again."""
    measured = look_again_s(observed.measuring, observed.measured, now) if observed.measuring is not None else None
    return min(filter(None, (measured, starting.look_again_s(observed.starting, now))), default=None)


def _tuned(
    observed: Observed,
    asked: Wanted,
    wish: Tuning,
    settings: Settings,
    provisioner: Provisioner,
    revision: Revision,
    now: datetime,
) -> Work:
    """The phases of a tuning. Nodes are asked for once all that can be judged beforehand is in order, and not any more
    when it is done."""
    assert asked.model is not None
    placement = place(asked, observed.nodes, provisioner, None)
    is_over = tuning.is_over(observed.job, observed.manifest)
    stands = standing.standing(observed, asked.model)
    failed = stands.stage == "Failed"
    supply = ordering.supplied(observed, asked, placement, provisioner, now, may_order=not is_over and not failed)
    rendering = tuning.Rendering(observed.manifest, asked, wish, asked.model, placement, str(revision.number))
    config = tuning.tune_config(rendering, settings)
    wanted_job = tuning.job(rendering, config, settings)
    missing = None if observed.job is not None else _missing_nodes(placement, supply)
    if missing is not None:
        waits = replace(missing, reason=missing.reason if missing.is_failure else names.REASON_TUNING_PENDING)
        stands = standing.Standing("Pending", waits)
    report = Report(
        workload=stands.verdict,
        nodes=placement.verdict,
        claims=supply.verdict if supply else None,
        is_failure=failed or (missing is not None and missing.is_failure),
        is_tuning=True,
        stage=stands.stage,
        tuning=standing.tuning_status(stands.progress, (observed.manifest.get("status") or {}).get("tuning")),
        worker_nodes=_hosts(observed) if provisioner.single_node else placement.nodes,
        target=placement.target,
    )
    again = standing.LOOK_AGAIN_S if stands.stage == "Running" else None
    if missing is not None:
        return Work(report, supply=supply)
    met = (headless_service(observed.manifest),) if config.together is not None else ()
    shared = (tuning.config_map(rendering, config), *met)
    if observed.job is None:
        return Work(report, apply=(*shared, wanted_job), supply=supply)
    if is_deleting(observed.job):
        return Work(report, supply=supply)
    if tuning.is_stale(observed.job, wanted_job):
        gone = Delete(JOBS, key_of(observed.job), uid=observed.job["metadata"]["uid"], propagation="Foreground")
        return Work(report, delete=(gone,), supply=supply)
    return Work(report, apply=shared, supply=supply, look_again_s=again)


def _missing_nodes(placement: Placement, supply: Supply | None) -> Verdict | None:
    """Why the workload has to wait for its nodes; None when it has not."""
    if supply is not None and placement.fits and not supply.verdict.ok:
        lacking = supply.verdict
    elif not placement.verdict.ok:
        lacking = placement.verdict
    else:
        return None
    reason = lacking.reason if lacking.is_failure else names.REASON_INFERENCE_PENDING
    return replace(lacking, reason=reason)


def _manifests(rendering: serving.Rendering, settings: Settings) -> Iterable[Manifest]:
    wanted_ = rendering.wanted
    if wanted_.model is not None:
        config = serving.serve_config(rendering, wanted_.model, settings)
        yield serving.config_map(rendering, config)
        yield serving.preset_stateful_set(rendering, wanted_.model, config, settings)
    elif wanted_.template is not None:
        yield serving.template_stateful_set(rendering, wanted_.template)
    yield headless_service(rendering.manifest)
    yield main_service(rendering.manifest, publishes=serving.publishes(wanted_, settings))


def _stopped(observed: Observed, problem: Problem) -> Report:
    workspace = observed.workspace
    return Report(
        workload=Verdict(False, problem.reason, problem.message, diagnosis=_known(problem)),
        is_failure=problem.reason != names.REASON_INFERENCE_PENDING,
        is_tuning=workspace is not None and workspace.inference is None and workspace.tuning is not None,
        worker_nodes=_hosts(observed),
    )


def _known(problem: Problem) -> Diagnosis | None:
    """The fault that a problem is; waiting for something is none."""
    if problem.reason == names.REASON_INFERENCE_PENDING:
        return None
    return named(problem.reason, problem.message)


def _placed(
    placement: Placement,
    supply: Supply | None,
    worker_nodes: tuple[str, ...],
    workload: Verdict,
    *,
    is_failure: bool = False,
) -> Report:
    return Report(
        workload=workload,
        nodes=placement.verdict,
        claims=supply.verdict if supply else None,
        is_failure=is_failure,
        worker_nodes=worker_nodes,
        target=placement.target,
    )


def _config_problem(observed: Observed, problem: Problem) -> Verdict:
    served = " The server that runs keeps its earlier settings." if observed.stateful_set else ""
    return Verdict(False, problem.reason, problem.message + served, diagnosis=_known(problem))


def _over_several_nodes(asked: Wanted, placement: Placement) -> Verdict | None:
    """Why a model that fits no single node is not started: the engine cannot work over several."""
    if asked.model is None or not placement.is_sized or placement.target < 2 or placement.spread > 1:
        return None
    reason = names.REASON_NOT_SUPPORTED_HERE
    evidence = f"{asked.model.id} needs {placement.target} of these nodes, and transformers serves a model from one."
    step = f"Set the annotation {names.RUNTIME_ANNOTATION} to vllm. {placement.advice}".rstrip()
    return Verdict(False, reason, f"{evidence} {step}", diagnosis=named(reason, evidence).told_as(reason, step))


def _serving_verdict(observed: Observed, asked: Wanted, placement: Placement) -> tuple[Verdict, bool]:
    """Whether the model is served; and if not, whether that is a failure."""
    name = observed.manifest["metadata"]["name"]
    if _is_up(observed.stateful_set, placement.target):
        unreachable = _without_endpoints(observed)
        if unreachable is not None:
            return Verdict(False, unreachable.condition, unreachable.message, diagnosis=unreachable), False
        what = asked.model.id if asked.model else "The template's pods"
        verb = "is" if asked.model else "are"
        return Verdict(True, names.REASON_INFERENCE_READY, f"{what} {verb} served through Service {name}."), False
    pods = _pods(observed)
    cause = failures.cause_of(pods, observed.warnings)
    living = [pod for pod in pods if not is_deleting(pod)]
    if cause is None and observed.stateful_set is not None and len(living) < placement.target:
        cause = failures.refusal_of(observed.stateful_set, observed.warnings)
    if cause is None:
        return Verdict(False, names.REASON_INFERENCE_PENDING, _progress(observed, pods, placement.target)), False
    is_failure = cause.condition != names.REASON_INFERENCE_PENDING
    return Verdict(False, cause.condition, cause.message, diagnosis=cause), is_failure


def _progress(observed: Observed, pods: list[Manifest], target: int) -> str:
    """What the workload waits for: in the words of the pod that starts, where it has any."""
    pod = observed.starting
    return (starting.told(pod["metadata"]["name"], observed.started) if pod else "") or progress_of(pods, target)


def _without_endpoints(observed: Observed) -> Diagnosis | None:
    """Whether the Service selects none of the pods although they are ready."""
    name = observed.manifest["metadata"]["name"]
    service = next((service for service in observed.services if service["metadata"]["name"] == name), None)
    selector = ((service or {}).get("spec") or {}).get("selector")
    if not selector or any(has_labels(pod, selector) for pod in _pods(observed)):
        return None
    labels = ", ".join(f"{key}={value}" for key, value in sorted(selector.items()))
    return found("service", f"The pods are ready, and Service {name} selects none of them: none has {labels}")


def _is_up(stateful_set: Manifest | None, target: int) -> bool:
    if stateful_set is None:
        return False
    reported = stateful_set.get("status") or {}
    if reported.get("observedGeneration", 0) < stateful_set["metadata"].get("generation", 0):
        return False
    wanted_ = max(target, stateful_set["spec"].get("replicas", 1))
    return bool(reported.get("readyReplicas", 0) >= wanted_ and reported.get("updatedReplicas", wanted_) >= wanted_)


def _pods(observed: Observed) -> list[Manifest]:
    """The pods of the StatefulSet or the Job; others may carry the label too."""
    workload = observed.stateful_set or observed.job
    if workload is None:
        return []
    uid = workload["metadata"].get("uid")
    return [pod for pod in observed.pods if (controller_of(pod) or {}).get("uid") == uid]


def _hosts(observed: Observed) -> tuple[str, ...]:
    """The nodes that run its pods."""
    hosts = {(pod.get("spec") or {}).get("nodeName") for pod in _pods(observed)}
    return tuple(sorted(host for host in hosts if host))


def _taken(observed: Observed) -> Problem | None:
    """Whether something that we would have to write under our names belongs to somebody else."""
    workspace = observed.manifest
    meta = workspace["metadata"]
    candidates = (observed.stateful_set, observed.serve_config, *observed.services, observed.job, observed.tune_config)
    for held in (candidate for candidate in candidates if candidate is not None):
        owner = controller_of(held)
        if owner is None and labels_of(held).get(names.WORKSPACE_LABEL) == meta["name"]:
            continue
        if owner is not None and owner["uid"] == meta["uid"]:
            continue
        what = f"{held['kind']} {held['metadata']['name']}"
        if owner is not None and (owner["kind"], owner["name"]) == (WORKSPACES.kind, meta["name"]):
            message = f"Waiting until {what} of an earlier Workspace of this name is removed."
            return Problem(names.REASON_INFERENCE_PENDING, message)
        return Problem(
            names.REASON_NAME_TAKEN,
            f"{what} exists and is not ours: delete it, or give the Workspace another name.",
        )
    return None


def _superseded(observed: Observed, work: Work) -> tuple[Delete, ...]:
    """The Deployment of an early KAITO release, once a StatefulSet takes its place."""
    deployment = observed.deployment
    if deployment is None or not work.apply or is_deleting(deployment):
        return ()
    if (controller_of(deployment) or {}).get("uid") != observed.manifest["metadata"]["uid"]:
        return ()
    return (Delete(DEPLOYMENTS, key_of(deployment), uid=deployment["metadata"]["uid"]),)


def _migration(workspace: Manifest, superseded: tuple[Delete, ...]) -> Iterable[Event]:
    for delete in superseded:
        message = f"Deployment {delete.key.name} is replaced by a StatefulSet of the same name."
        yield Event(workspace, names.EVENT_WORKLOAD_MIGRATION, message, "Warning")
