# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The workload of a tuning: the TuneConfig, the ConfigMap that holds it, the Job that runs it, and how the Job stands.

One container does all, step by step (`kaito.runtime.tune.app`): what it has done lies beside the result, so that a
process that ends goes on. A Job's pods cannot be changed, so a changed Workspace gets a new Job.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from pydantic import ValidationError

from kaito.api import contracts, datasets, names
from kaito.api.contracts import (
    FetchItem,
    HubSource,
    OciSource,
    Together,
    TuneConfig,
    TuneProgress,
    TuneTarget,
    UrlSource,
)
from kaito.api.datasets import Dataset
from kaito.api.references import parse
from kaito.catalog.flags import engine_flags
from kaito.catalog.models import ModelFacts
from kaito.kube.manifest import (
    Manifest,
    annotations_of,
    condition_of,
    controller_of,
    is_deleting,
    is_true,
    labels_of,
    owner_reference,
)
from kaito.kube.resource import CONFIG_MAPS, JOBS
from kaito.operator import pods
from kaito.operator.faults.table import named
from kaito.operator.pods import Mounted
from kaito.operator.provisioners.wish import Verdict
from kaito.operator.settings import Settings
from kaito.operator.workspace import failures
from kaito.operator.workspace.containers import statuses
from kaito.operator.workspace.nodes import Placement
from kaito.operator.workspace.observe import Observed, headless_name, tune_config_name
from kaito.operator.workspace.progress import progress_of
from kaito.operator.workspace.results import is_merged
from kaito.operator.workspace.revision import spec_hash
from kaito.operator.workspace.serving import hub_environment, local_weights, weights_mount
from kaito.operator.workspace.wanted import Tuning, Wanted
from kaito.operator.workspace.weights import node_mount

Stage = Literal["Pending", "Running", "Succeeded", "Failed"]
COMMAND = ["kaito-runtime", "tune", "--config", f"{contracts.CONFIG_MOUNT}/{contracts.TUNE_CONFIG_KEY}"]
DATA_FOLDER = f"{contracts.DATA_MOUNT}/files"
"""Below the mount: a folder that appears whole cannot be the mount itself."""
CHECKSUM = "#sha256="
RETRIES = 6
INDEXED = {"completionMode": "Indexed", "successPolicy": {"rules": [{"succeededIndexes": "0"}]}}
"""Of a Job with several pods: each has a rank, and the work is done when the first has the result."""
LOOK_AGAIN_S = 5.0
"""How often the status of a running tuning is brought up to date."""
GRACE_S = 120
"""What a checkpoint may take when the pod is to end."""
_GIB = " GiB"
_SECONDS = {"h": 3600, "m": 60, "s": 1}
_PARTS = re.compile(r"(\d+)([hms])")


@dataclass(frozen=True, slots=True)
class Rendering:
    """What a tuning's workload is rendered from."""

    manifest: Manifest
    wanted: Wanted
    tuning: Tuning
    model: ModelFacts
    placement: Placement
    revision: str

    @property
    def name(self) -> str:
        """The Workspace's, and the Job's."""
        return str(self.manifest["metadata"]["name"])


def tune_config(rendering: Rendering, settings: Settings) -> TuneConfig:
    """What the pod is to do."""
    tuning, model, placement = rendering.tuning, rendering.model, rendering.placement
    gpus = placement.hardware.gpus
    flags = engine_flags(model, "transformers", gpus=placement.hardware.known)
    return TuneConfig(
        workspace=rendering.name,
        namespace=rendering.manifest["metadata"].get("namespace", ""),
        device="cuda" if gpus else "cpu",
        processes=max(1, gpus),
        model=contracts.ModelSource(
            id=model.id,
            revision=model.revision,
            folder=rendering.wanted.weights_folder or None,
            local_dirs=tuple(mount.mount["mountPath"] for mount in local_weights(settings)),
            offline=settings.offline or model.built_locally,
        ),
        preset=_preset(rendering),
        # As when it is served: what was looked at is what is run, and a copy on a node is not what was looked at.
        trust_remote_code=flags.trust_remote_code
        and model.is_known
        and model.revision is not None
        and not rendering.wanted.weights_folder,
        method=tuning.method,
        data=tuple(_data(tuning)),
        private_urls=settings.allows_private_urls,
        offline=settings.offline,
        output_dir=tuning.output_dir,
        output=_target(rendering) if tuning.output.image else None,
        merge=is_merged(rendering.manifest) and tuning.method != "full",
        checkpoints=_checkpoints(rendering) if tuning.keeps_checkpoints else None,
        together=_together(rendering),
    )


def _together(rendering: Rendering) -> Together | None:
    """How the pods find each other; None where there is one."""
    nodes = rendering.placement.spread
    if nodes == 1:
        return None
    namespace = rendering.manifest["metadata"].get("namespace", "")
    return Together(nodes=nodes, leader=f"{rendering.name}-0.{headless_name(rendering.name)}.{namespace}.svc")


def _preset(rendering: Rendering) -> str:
    preset = rendering.wanted.workspace.preset
    return preset.name if preset else rendering.model.id


def _data(tuning: Tuning) -> Iterable[FetchItem]:
    source = tuning.input
    if source.urls:
        web = [url for url in source.urls if not datasets.is_dataset(url)]
        pairs = [url.partition(CHECKSUM) for url in web]
        checksums = {address: digest for address, _, digest in pairs if digest}
        if pairs:
            wanted = UrlSource(urls=tuple(address for address, _, _ in pairs), sha256=checksums)
            yield FetchItem(name="the data set", source=wanted, destination=DATA_FOLDER)
        of_hubs = [datasets.parse(url) for url in source.urls if datasets.is_dataset(url)]
        for number, one in enumerate(of_hubs, 1):
            yield _hub_item(number, one)
    elif source.image:
        logins = tuple(_pull_secret_path(index) for index, _ in enumerate(source.image_pull_secrets))
        image = OciSource(reference=source.image)
        yield FetchItem(name="the data set", source=image, destination=DATA_FOLDER, credentials=logins)


def _hub_item(number: int, wanted: Dataset) -> FetchItem:
    """A data set of a hub, in a folder of its own that is called after it."""
    source = HubSource(**asdict(wanted))
    folder = f"{contracts.DATA_MOUNT}/{number}-{wanted.repository.rpartition('/')[2]}"
    return FetchItem(name=f"the data set {wanted.repository}", source=source, destination=folder)


def _target(rendering: Rendering) -> TuneTarget:
    annotations = {names.MODEL_NAME_ANNOTATION: _preset(rendering)}
    return TuneTarget(
        image=rendering.tuning.output.image,
        credentials=_push_login(rendering),
        annotations=annotations,
        format=rendering.tuning.format,
    )


def _checkpoints(rendering: Rendering) -> TuneTarget | None:
    """Beside the result, under a tag that no other Workspace has; None where the image's name makes no sense, which the
    pod says."""
    try:
        result = parse(rendering.tuning.output.image)
    except ValueError:
        return None
    tag = f"{rendering.name}-checkpoint-{str(rendering.manifest['metadata'].get('uid', ''))[:13]}"
    image = str(replace(result, tag=tag, digest=None))
    return TuneTarget(image=image, credentials=_push_login(rendering), format="artifact")


def _push_login(rendering: Rendering) -> tuple[str, ...]:
    return (f"{contracts.PUSH_SECRET_MOUNT}/config.json",) if rendering.tuning.output.image_push_secret else ()


def _pull_secret_path(index: int) -> str:
    return f"{contracts.PULL_SECRETS_MOUNT}/{index}"


def config_map(rendering: Rendering, config: TuneConfig) -> Manifest:
    """The ConfigMap that carries the TuneConfig and, where the user has none, the training configuration."""
    data = {contracts.TUNE_CONFIG_KEY: _json(config)}
    if not rendering.tuning.config_map:
        data[contracts.TRAINING_CONFIG_KEY] = rendering.tuning.config
    return {
        "apiVersion": CONFIG_MAPS.api_version,
        "kind": CONFIG_MAPS.kind,
        "metadata": {
            "name": tune_config_name(rendering.name),
            "namespace": rendering.manifest["metadata"].get("namespace", ""),
            "labels": {names.WORKSPACE_LABEL: rendering.name},
            "ownerReferences": [owner_reference(rendering.manifest)],
        },
        "data": data,
    }


def _json(config: TuneConfig) -> str:
    content = config.model_dump(mode="json", exclude={"together"} if config.together is None else None)
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def config_hash(rendering: Rendering, config: TuneConfig) -> str:
    """Of everything that is not in the Workspace but decides what the Job does."""
    return hashlib.sha256((_json(config) + rendering.tuning.config).encode()).hexdigest()


def job(rendering: Rendering, config: TuneConfig, settings: Settings) -> Manifest:
    """The Job."""
    nodes = rendering.placement.spread
    labels = {names.WORKSPACE_LABEL: rendering.name}
    return {
        "apiVersion": JOBS.api_version,
        "kind": JOBS.kind,
        "metadata": {
            "name": rendering.name,
            "namespace": rendering.manifest["metadata"].get("namespace", ""),
            "labels": dict(labels),
            "annotations": {
                names.REVISION_ANNOTATION: rendering.revision,
                names.REVISION_HASH_ANNOTATION: spec_hash(rendering.manifest),
                names.CONFIG_HASH_ANNOTATION: config_hash(rendering, config),
            },
            "ownerReferences": [owner_reference(rendering.manifest)],
        },
        "spec": {
            "backoffLimit": RETRIES * nodes,
            "completions": nodes,
            "parallelism": nodes,
            **(INDEXED if nodes > 1 else {}),
            # What the user has to correct first is not tried again; what a node takes back is tried without counting.
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": rendering.name,
                            "operator": "In",
                            "values": [contracts.USELESS_TO_RETRY],
                        },
                    },
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "template": {"metadata": {"labels": dict(labels)}, "spec": _pod_spec(rendering, config, settings)},
        },
    }


def _pod_spec(rendering: Rendering, config: TuneConfig, settings: Settings) -> Manifest:
    mounts = list(_mounts(rendering, config, settings))
    container: Manifest = {
        "name": rendering.name,
        "image": settings.runtime_image,
        "command": list(COMMAND),
        "securityContext": pods.container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [mount.mount for mount in mounts],
    }
    optional = {
        "env": [*hub_environment(rendering.wanted.token_secret, settings), *_own_address(rendering)],
        "resources": pods.gpu_resources(rendering.placement.hardware.gpus),
    }
    container |= {field: value for field, value in optional.items() if value}
    spec: Manifest = {
        "automountServiceAccountToken": False,
        "containers": [container],
        "restartPolicy": "Never",
        "securityContext": pods.pod_security(root=bool(settings.weights_cache)),
        "terminationGracePeriodSeconds": GRACE_S,
        "tolerations": [*pods.tolerations(), *rendering.placement.tolerations],
        "volumes": [mount.volume for mount in mounts],
    }
    affinity = pods.node_affinity(rendering.placement.requirements)
    if config.together is not None:
        spec["subdomain"] = headless_name(rendering.name)
        if rendering.placement.target > 1:
            affinity = {**affinity, **pods.one_a_node({names.WORKSPACE_LABEL: rendering.name})}
    return {**spec, "affinity": affinity} if affinity else spec


def _own_address(rendering: Rendering) -> list[Manifest]:
    """Where the other pods reach this one, for it to tell them."""
    if rendering.placement.spread == 1:
        return []
    return [{"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}]


def _mounts(rendering: Rendering, config: TuneConfig, settings: Settings) -> Iterable[Mounted]:
    tuning = rendering.tuning
    ours = tune_config_name(rendering.name)
    yield pods.config_map("tune-config", contracts.CONFIG_MOUNT, ours)
    yield pods.config_map("config-volume", contracts.USER_CONFIG_MOUNT, tuning.config_map or ours)
    yield pods.empty_dir("dshm", "/dev/shm", in_memory=True)
    yield pods.empty_dir("tmp", "/tmp")
    yield weights_mount(settings)
    yield from local_weights(settings)
    yield from node_mount(rendering.wanted.weights_folder)
    if tuning.input.volume_source is not None:
        yield pods.mounted("data-volume", contracts.DATA_MOUNT, dict(tuning.input.volume_source), read_only=True)
    else:
        yield pods.empty_dir("data-volume", contracts.DATA_MOUNT)
    if tuning.output.volume_source is not None:
        yield pods.mounted("results-volume", config.output_dir, dict(tuning.output.volume_source))
    else:
        yield pods.empty_dir("results-volume", config.output_dir)
    if tuning.output.image_push_secret:
        items = [{"key": ".dockerconfigjson", "path": "config.json"}]
        source = {"secret": {"secretName": tuning.output.image_push_secret, "items": items}}
        yield pods.mounted("docker-config", contracts.PUSH_SECRET_MOUNT, source, read_only=True)
    for index, secret in enumerate(tuning.input.image_pull_secrets if tuning.input.image else ()):
        source = {"secret": {"secretName": secret}}
        yield pods.mounted(f"docker-config-{index}", _pull_secret_path(index), source, read_only=True)


def is_stale(existing: Manifest, fresh: Manifest) -> bool:
    """Whether a Job has to make way: the Workspace was changed, or it failed and what it was given was corrected."""
    before, after = annotations_of(existing), annotations_of(fresh)
    if before.get(names.REVISION_HASH_ANNOTATION) != after[names.REVISION_HASH_ANNOTATION]:
        return True
    corrected = before.get(names.CONFIG_HASH_ANNOTATION) != after[names.CONFIG_HASH_ANNOTATION]
    return is_true(existing, "Failed") and corrected


def is_over(existing: Manifest | None, workspace: Manifest) -> bool:
    """Whether the Job of the Workspace as it stands has succeeded: then no node is needed any more."""
    return (
        existing is not None
        and is_true(existing, "Complete")
        and annotations_of(existing).get(names.REVISION_HASH_ANNOTATION) == spec_hash(workspace)
    )


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
        "gpuMemory": None if progress.gpu_memory_gib is None else f"{progress.gpu_memory_gib:.1f}{_GIB}",
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


def duration(seconds: int) -> str:
    """A time as people say it: 45s, 3m20s, 1h05m."""
    minutes, rest = divmod(max(0, seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def seconds_of(text: str) -> float:
    """The seconds that `duration` wrote."""
    return float(sum(int(number) * _SECONDS[unit] for number, unit in _PARTS.findall(text)))


def bytes_of(text: str) -> float:
    """The bytes that `status.tuning.gpuMemory` says."""
    return float(text.removesuffix(_GIB)) * 2**30
