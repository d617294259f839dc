# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The workload of a tuning: the TuneConfig, the ConfigMap that holds it, and the Job that runs it.

One container does all, step by step (`kaito.runtime.tune.app`): what it has done lies beside the result, so that a
process that ends goes on. A Job's pods cannot be changed, so a changed Workspace gets a new Job.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from kaito.api import contracts, datasets, names
from kaito.api.contracts import (
    FetchItem,
    HubSource,
    OciSource,
    Together,
    TuneConfig,
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
    is_true,
    owner_reference,
)
from kaito.kube.resource import CONFIG_MAPS, JOBS
from kaito.operator import pods
from kaito.operator.pods import Mounted
from kaito.operator.settings import Settings
from kaito.operator.workspace.nodes import Placement
from kaito.operator.workspace.observe import headless_name, tune_config_name
from kaito.operator.workspace.results import is_merged
from kaito.operator.workspace.revision import spec_hash
from kaito.operator.workspace.serving import hub_environment, local_weights, weights_mount
from kaito.operator.workspace.wanted import Tuning, Wanted
from kaito.operator.workspace.weights import node_mount

COMMAND = ["kaito-runtime", "tune", "--config", f"{contracts.CONFIG_MOUNT}/{contracts.TUNE_CONFIG_KEY}"]
DATA_FOLDER = f"{contracts.DATA_MOUNT}/files"
"""Below the mount: a folder that appears whole cannot be the mount itself."""
CHECKSUM = "#sha256="
RETRIES = 6
INDEXED = {"completionMode": "Indexed", "successPolicy": {"rules": [{"succeededIndexes": "0"}]}}
"""Of a Job with several pods: each has a rank, and the work is done when the first has the result."""
GRACE_S = 120
"""What a checkpoint may take when the pod is to end."""


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
