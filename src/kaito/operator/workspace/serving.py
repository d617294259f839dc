# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The workload of a Workspace: the ServeConfig, the ConfigMap that holds it, and the StatefulSet that runs it.

Everything that a pod does follows from the one ServeConfig; a hash of it stands on the pod template, so that any change
rolls the pods. The same input renders the same bytes. Parts of pods come from `kaito.operator.pods`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kaito.api import contracts, names
from kaito.api.contracts import ServeConfig
from kaito.catalog.flags import EngineFlags, engine_flags
from kaito.catalog.models import ModelFacts
from kaito.catalog.sizing import gpu_memory_utilization, ready_timeout_s
from kaito.kube.manifest import Manifest, annotations_of, labels_of, owner_reference
from kaito.kube.resource import CONFIG_MAPS, STATEFUL_SETS
from kaito.operator import pods
from kaito.operator.pods import Mounted
from kaito.operator.settings import DEFAULT_HUB, Settings
from kaito.operator.workspace import adapters, fetching, weights
from kaito.operator.workspace.fetching import Fetch
from kaito.operator.workspace.nodes import Placement
from kaito.operator.workspace.observe import headless_name, serve_config_name
from kaito.operator.workspace.wanted import UserConfig, Wanted

COMMAND = ["kaito-runtime", "serve", "--config", f"{contracts.CONFIG_MOUNT}/{contracts.SERVE_CONFIG_KEY}"]
TOKEN_KEY = "HF_TOKEN"
HUB_KEY = "HF_ENDPOINT"
"""The key of a modelAccessSecret, and the variable that Hugging Face's libraries read."""
COPIED_LABELS = (names.INFERENCESET_CREATED_BY_LABEL, names.MULTIROLE_CREATED_BY_LABEL, names.INFERENCE_ROLE_LABEL)
KV_EVENTS = f'{{"enable_kv_cache_events": true, "endpoint": "tcp://*:{contracts.KV_EVENTS_PORT}", "publisher": "zmq"}}'
PERFORMANCE_MODES = ("interactivity", "throughput")
"""Those that are passed on; balanced is what the engine does anyway."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """What a preset's workload is rendered from."""

    manifest: Manifest
    """The Workspace, for names and ownership."""
    wanted: Wanted
    placement: Placement
    user_config: UserConfig | None
    revision: str
    existing: Manifest | None
    """The StatefulSet there is: what Kubernetes does not let change is taken over from it."""


def serve_config(rendering: Rendering, model: ModelFacts, settings: Settings) -> ServeConfig:
    """What the pods are to run."""
    wanted, placement = rendering.wanted, rendering.placement
    meta = rendering.manifest["metadata"]
    gpus = placement.hardware.known
    flags = engine_flags(model, wanted.engine, gpus=gpus)
    on_gpu = placement.hardware.gpus > 0
    elsewhere = wanted.weights is not None or wanted.weights_folder
    options: dict[str, Any] = {
        **flags.options(),
        # A repository's own code runs only where its commit is pinned: what was looked at is what is run.
        # A copy of it in a registry or on a node is not what was looked at.
        "trust_remote_code": flags.trust_remote_code and model.revision is not None and not elsewhere,
        "extra_args": _extra_args(rendering, flags, settings, on_gpu=on_gpu),
    }
    if not on_gpu:
        options["dtype"] = "auto"
    utilization = gpu_memory_utilization(gpus) if gpus and wanted.engine == "vllm" else None
    return ServeConfig(
        workspace=meta["name"],
        namespace=meta.get("namespace", ""),
        engine=wanted.engine,
        device="cuda" if on_gpu else "cpu",
        model=contracts.ModelSource(
            id=model.id,
            revision=model.revision,
            folder=wanted.weights_folder or None,
            local_dirs=tuple(mount.mount["mountPath"] for mount in local_weights(settings)),
            offline=settings.offline or model.built_locally,
        ),
        served_model_name=_served_name(rendering.manifest, model),
        gpu_memory_utilization=utilization,
        parallelism=placement.parallelism,
        nodes=placement.spread,
        peers=_peers(rendering.manifest, placement.spread),
        adapters=adapters.in_config(wanted.adapters),
        fetch_config=fetching.CONFIG_PATH if adapters.fetches(wanted.adapters) else None,
        user_config=f"{contracts.USER_CONFIG_MOUNT}/{contracts.USER_CONFIG_KEY}" if rendering.user_config else None,
        benchmark=_benchmark(rendering, on_gpu=on_gpu),
        api_keys_dir=contracts.API_KEYS_MOUNT if _api_keys(rendering) else None,
        user_config_name=rendering.user_config.name if rendering.user_config else None,
        kv_offload=_offloads(rendering, flags, on_gpu=on_gpu),
        **options,
    )


def _offloads(rendering: Rendering, flags: EngineFlags, *, on_gpu: bool) -> bool:
    """Whether the engine can keep parts of this model's KV cache in the machine's memory: as KAITO, not for parts of a
    GPU, several engines or several nodes."""
    whole = rendering.placement.hardware.resource == pods.GPU_RESOURCE
    alone = rendering.placement.spread == 1 and rendering.placement.parallelism.data == 1
    return flags.kv_offload and rendering.wanted.engine == "vllm" and on_gpu and whole and alone


def _peers(workspace: Manifest, pods_: int) -> tuple[str, ...]:
    """The DNS names of the pods that a model is spread over, by rank; none where one pod has all of it."""
    name, namespace = workspace["metadata"]["name"], workspace["metadata"].get("namespace", "")
    return tuple(f"{name}-{rank}.{headless_name(name)}.{namespace}.svc" for rank in range(pods_)) if pods_ > 1 else ()


def publishes(wanted: Wanted, settings: Settings) -> bool:
    """Whether the pods tell routers what their KV caches hold. On one machine, where all pods share a network, there is
    no router, and the second pod could not have the port."""
    return wanted.model is not None and wanted.engine == "vllm" and settings.provisioner != "local"


def _extra_args(rendering: Rendering, flags: EngineFlags, settings: Settings, *, on_gpu: bool) -> dict[str, Any]:
    arguments = dict(flags.extra_args)
    if rendering.wanted.engine != "vllm":
        return arguments
    if on_gpu:
        # The fused all-reduce kernel fails on some multi-GPU nodes; KAITO switches it off for every model.
        arguments["compilation-config.pass_config.fuse_allreduce_rms"] = "False"
    if publishes(rendering.wanted, settings):
        arguments["kv-events-config"] = KV_EVENTS
    mode = annotations_of(rendering.manifest).get(names.PERFORMANCE_MODE_ANNOTATION)
    if mode in PERFORMANCE_MODES:
        arguments["performance-mode"] = mode
    return dict(sorted(arguments.items()))


def _served_name(workspace: Manifest, model: ModelFacts) -> str:
    """The model's name, or that of the InferenceSet whose replica this is; all roles of a multi-role set share one."""
    labels = labels_of(workspace)
    if labels.get(names.MULTIROLE_CREATED_BY_LABEL):
        return model.served_name
    return labels.get(names.INFERENCESET_CREATED_BY_LABEL) or model.served_name


def config_map(rendering: Rendering, config: ServeConfig) -> Manifest:
    """The ConfigMap that carries the ServeConfig to the pods."""
    meta = rendering.manifest["metadata"]
    return {
        "apiVersion": CONFIG_MAPS.api_version,
        "kind": CONFIG_MAPS.kind,
        "metadata": {
            "name": serve_config_name(meta["name"]),
            "namespace": meta.get("namespace", ""),
            "labels": {names.WORKSPACE_LABEL: meta["name"]},
            "ownerReferences": [owner_reference(rendering.manifest)],
        },
        "data": {contracts.SERVE_CONFIG_KEY: _json(config), **_fetch_data(rendering.wanted)},
    }


def _ports(config: ServeConfig) -> Iterable[tuple[str, int]]:
    yield "http", config.port
    if "kv-events-config" in config.extra_args:
        yield "kv-events", contracts.KV_EVENTS_PORT


def _fetches(wanted: Wanted) -> tuple[Fetch, ...]:
    fetched = weights.fetches(wanted.weights, wanted.model) if wanted.model is not None else ()
    return (*fetched, *adapters.fetches(wanted.adapters))


def _fetch_data(wanted: Wanted) -> dict[str, str]:
    fetch = fetching.fetch_config(_fetches(wanted))
    return {contracts.FETCH_CONFIG_KEY: _json(fetch)} if fetch else {}


def _json(config: contracts.Contract) -> str:
    return json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"


def preset_stateful_set(rendering: Rendering, model: ModelFacts, config: ServeConfig, settings: Settings) -> Manifest:
    """The StatefulSet that serves a preset."""
    user_config = rendering.user_config
    # Over several pods an adapter has to be in all of them before any may load it: they start anew with it.
    alone = config.nodes == 1
    fixed = _json(adapters.unrolled(config, rendering.wanted.adapters) if alone else config)
    fetched = weights.fetches(rendering.wanted.weights, model)
    # A running server follows what it can fetch itself; for what takes a secret there is a new pod.
    fixed += "".join(
        _json(one.item()) for one in adapters.fetches(rendering.wanted.adapters) if one.secrets or not alone
    )
    fixed += "".join(_json(one.item()) for one in fetched)
    digest = hashlib.sha256((fixed + (user_config.text if user_config else "")).encode()).hexdigest()
    mounts, fetches = _mounts(rendering, settings), _fetches(rendering.wanted)
    container: Manifest = {
        "name": rendering.manifest["metadata"]["name"],
        "image": settings.runtime_image,
        "command": list(COMMAND),
        "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in _ports(config)],
        **pods.probes(ready_timeout_s(model)),
        "securityContext": pods.container_security(),
        # The runtime leaves a Failure there; what ends before it can is told by the log's last lines.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [mount.mount for mount in mounts],
    }
    optional = {
        "env": _environment(rendering.wanted, engine_flags(model, rendering.wanted.engine), config, settings),
        "resources": pods.gpu_resources(rendering.placement.hardware.gpus, rendering.placement.hardware.resource),
    }
    container |= {field: value for field, value in optional.items() if value}
    spec: Manifest = {
        "automountServiceAccountToken": False,
        "containers": [container],
        "tolerations": [*pods.tolerations(), *rendering.placement.tolerations],
        "securityContext": pods.pod_security(root=bool(settings.weights_cache)),
        "volumes": [mount.volume for mount in (*mounts, *fetching.secret_mounts(fetches))],
    }
    folders = [*([weights_mount(settings)] if fetched else []), *adapters.fetched_mounts(rendering.wanted.adapters)]
    init_containers = fetching.init_containers(fetches, settings.runtime_image, [mounts[0], *folders])
    secrets = fetching.pull_secrets_of(fetches)
    if init_containers:
        spec["initContainers"] = init_containers
    if secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in secrets]
    affinity = pods.node_affinity(rendering.placement.requirements)
    if affinity:
        spec["affinity"] = affinity
    template = {"metadata": {"annotations": {names.CONFIG_HASH_ANNOTATION: digest}}, "spec": spec}
    return _stateful_set(rendering, template)


def is_of_kaito(stateful_set: Manifest | None) -> bool:
    """Whether there is a StatefulSet, and KAITO made it and we never rendered it."""
    if stateful_set is None:
        return False
    template = {"metadata": stateful_set["spec"]["template"].get("metadata") or {}}
    is_ours = names.CONFIG_HASH_ANNOTATION in annotations_of(template)
    return not is_ours and names.WORKSPACE_LABEL not in labels_of(stateful_set)


def template_stateful_set(rendering: Rendering, template: Manifest) -> Manifest:
    """The StatefulSet that runs the user's own pod template, pinned to the Workspace's nodes. Edits roll out."""
    given = template.get("spec") or {}
    ours = [*pods.tolerations(), *rendering.placement.tolerations]
    spec = {**given, "tolerations": pods.appended(ours, given.get("tolerations") or [])}
    affinity = pods.narrowed_affinity(given.get("affinity") or {}, rendering.placement.requirements)
    if affinity:
        spec["affinity"] = affinity
    meta = template.get("metadata") or {}
    kept = {field: dict(meta[field]) for field in ("annotations", "labels") if meta.get(field)}
    return _stateful_set(rendering, {"metadata": kept, "spec": spec})


def _stateful_set(rendering: Rendering, template: Manifest) -> Manifest:
    meta = rendering.manifest["metadata"]
    fixed = (rendering.existing or {}).get("spec") or {}
    selector = (fixed.get("selector") or {}).get("matchLabels") or _selector(rendering.manifest)
    labels = {**(template["metadata"].get("labels") or {}), **_selector(rendering.manifest), **selector}
    return {
        "apiVersion": STATEFUL_SETS.api_version,
        "kind": STATEFUL_SETS.kind,
        "metadata": {
            "name": meta["name"],
            "namespace": meta.get("namespace", ""),
            "labels": {names.WORKSPACE_LABEL: meta["name"]},
            "annotations": {names.REVISION_ANNOTATION: rendering.revision},
            "ownerReferences": [owner_reference(rendering.manifest)],
        },
        "spec": {
            "replicas": rendering.placement.target,
            "serviceName": fixed.get("serviceName", headless_name(meta["name"])),
            "podManagementPolicy": fixed.get("podManagementPolicy", "Parallel"),
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Retain"},
            "selector": {"matchLabels": dict(selector)},
            "template": {**template, "metadata": {**template["metadata"], "labels": labels}},
        },
    }


def _selector(workspace: Manifest) -> dict[str, str]:
    labels = labels_of(workspace)
    copied = {label: labels[label] for label in COPIED_LABELS if labels.get(label)}
    return {names.WORKSPACE_LABEL: workspace["metadata"]["name"], **copied}


def hub_environment(secret: str, settings: Settings) -> list[Manifest]:
    """Which hub a pod downloads from, where it is not Hugging Face's own, and as whom."""
    token = [pods.secret_env(TOKEN_KEY, secret, TOKEN_KEY)] if secret else []
    is_other = settings.hub_endpoint not in ("", DEFAULT_HUB)
    return [*token, *([{"name": HUB_KEY, "value": settings.hub_endpoint}] if is_other else [])]


def _environment(wanted: Wanted, flags: EngineFlags, config: ServeConfig, settings: Settings) -> list[Manifest]:
    environment = hub_environment(wanted.token_secret, settings)
    if wanted.engine == "vllm" and config.device == "cuda":
        environment.append({"name": "VLLM_USE_DEEP_GEMM", "value": "1" if flags.deep_gemm else "0"})
        environment.append({"name": "VLLM_USE_FLASHINFER_SAMPLER", "value": "0"})
    return environment


def _mounts(rendering: Rendering, settings: Settings) -> Sequence[Mounted]:
    name = rendering.manifest["metadata"]["name"]
    mounts = [
        pods.config_map("serve-config", contracts.CONFIG_MOUNT, serve_config_name(name)),
        pods.empty_dir("dshm", "/dev/shm", in_memory=True),
        pods.empty_dir("tmp", "/tmp"),
        weights_mount(settings),
        *local_weights(settings),
        *weights.node_mount(rendering.wanted.weights_folder),
    ]
    if rendering.user_config:
        mounts.append(pods.config_map("config-volume", contracts.USER_CONFIG_MOUNT, rendering.user_config.name))
    keys = _api_keys(rendering)
    if keys:
        # A Secret that is missing keeps the pod from starting: a server that asks for keys never runs without them.
        mounts.append(
            pods.mounted("api-keys", contracts.API_KEYS_MOUNT, {"secret": {"secretName": keys}}, read_only=True)
        )
    mounts += adapters.mounts(rendering.wanted.adapters)
    return mounts


def _benchmark(rendering: Rendering, *, on_gpu: bool) -> Literal["off", "light", "full"]:
    """What the pod measures of itself after it is Ready: a light load for vLLM on GPUs, unless the user says."""
    annotations = annotations_of(rendering.manifest)
    if rendering.placement.spread > 1:
        return "off"  # A load on all of a model's nodes is for its user to make.
    if str(annotations.get(names.DISABLE_BENCHMARK_ANNOTATION)).lower() == "true":
        return "off"
    match annotations.get(names.BENCHMARK_ANNOTATION):
        case "full":
            return "full"
        case "light":
            return "light"
    return "light" if on_gpu and rendering.wanted.engine == "vllm" else "off"


def _api_keys(rendering: Rendering) -> str:
    """The Secret with the API keys; empty where everybody may ask."""
    return str(annotations_of(rendering.manifest).get(names.API_KEYS_ANNOTATION) or "").strip()


def weights_mount(settings: Settings) -> Mounted:
    """Where downloaded weights are kept."""
    name = "model-weights-volume"
    if settings.weights_cache:
        return pods.host_path(name, contracts.WEIGHTS_MOUNT, settings.weights_cache, create=True)
    return pods.empty_dir(name, contracts.WEIGHTS_MOUNT)


def local_weights(settings: Settings) -> list[Mounted]:
    """The node's folders with weights laid out by model id."""
    return [
        pods.host_path(f"local-weights-{index}", f"{contracts.LOCAL_WEIGHTS_MOUNT}/{index}", folder)
        for index, folder in enumerate(settings.local_weights)
    ]
