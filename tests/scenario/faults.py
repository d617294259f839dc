# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The faults that tests inject, as data: which reason is expected, and what a cluster says of a pod that has the fault.

The texts are those of kubelets, schedulers, registries, Karpenter, vLLM, PyTorch and the Hugging Face client.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from kaito.api import names
from kaito.kube.manifest import Manifest
from tests.builders import container_status


@dataclass(frozen=True)
class PodFault:
    """What a pod's status, and the events about it, look like."""

    reason: str
    status: Manifest
    events: tuple[tuple[str, str, str], ...] = ()
    """Kind of the involved object, reason and message; Pod and StatefulSet are those of the Workspace."""
    condition: str = ""
    """The reason of InferenceReady; the precise one when empty."""


def unschedulable(reason: str, text: str, *events: tuple[str, str, str]) -> PodFault:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text}
    return PodFault(reason, {"phase": "Pending", "conditions": [condition]}, events, "Unschedulable")


def image(reason: str, text: str, state: str = "ErrImagePull", *events: tuple[str, str, str]) -> PodFault:
    waiting = {"waiting": {"reason": state, "message": text}}
    return PodFault(reason, _containers(state=waiting), events, "ImagePullError")


def start(reason: str, text: str, state: str = "CreateContainerConfigError") -> PodFault:
    return PodFault(
        reason, _containers(state={"waiting": {"reason": state, "message": text}}), (), "ContainerStartError"
    )


def mount(reason: str, text: str, event: str = "FailedMount") -> PodFault:
    creating = {"waiting": {"reason": "ContainerCreating"}}
    return PodFault(reason, _containers(state=creating), (("Pod", event, text),), "ContainerStartError")


def words(reason: str, class_: str, text: str) -> PodFault:
    """A container of our runtime that ended with a Failure."""
    said = json.dumps({"reason": class_, "message": text, "next_step": "Do what helps."})
    return PodFault(reason, _ended(message=said, exitCode=3, reason="Error"), (), class_)


def log(reason: str, line: str) -> PodFault:
    """A container of somebody else's image that keeps ending, with the last line of its log."""
    return PodFault(reason, _ended(message=line, exitCode=1, reason="Error"), (), "ContainerCrashLoopBackOff")


def probe(reason: str, text: str, exit_code: int) -> PodFault:
    return PodFault(
        reason, _ended(exitCode=exit_code, reason="Error"), (("Pod", "Unhealthy", text),), "ContainerCrashLoopBackOff"
    )


def gone(reason: str, why: str, text: str, condition: str = "PodEvicted") -> PodFault:
    return PodFault(reason, {"phase": "Failed", "reason": why, "message": text}, (), condition)


def refused(reason: str, text: str) -> PodFault:
    said = f"create Pod demo-0 in StatefulSet demo failed error: {text}"
    return PodFault(reason, {}, (("StatefulSet", "FailedCreate", said),), "Refused")


def _containers(**states: Any) -> Manifest:
    conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}]
    return {"phase": "Pending", "conditions": conditions, "containerStatuses": [container_status(**states)]}


def _ended(**terminated: Any) -> Manifest:
    looping = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}}
    return _containers(state=looping, lastState={"terminated": terminated}) | {"phase": "Running"}


INIT_FAILED = {
    "phase": "Pending",
    "initContainerStatuses": [
        {
            "name": "fetch",
            "image": "i",
            "ready": False,
            "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 2, "reason": "Error", "message": "boom"}},
        }
    ],
}
NOT_ANSWERING = _containers(state={"running": {"startedAt": "2026-01-01T00:00:00Z"}}) | {"phase": "Running"}
NOT_ANSWERING["containerStatuses"][0]["started"] = True

UNBOUND = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."
HUB = "ModelWeightsNotFound"
ENGINE = "InferenceEngineFailed"
OPTION = "InferenceConfigInvalid"

POD_FAULTS = (
    unschedulable(names.REASON_NO_GPU_FREE, "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
    unschedulable(names.REASON_NO_MEMORY_FREE, "0/3 nodes are available: 3 Insufficient memory."),
    unschedulable(names.REASON_NO_CPU_FREE, "0/3 nodes are available: 3 Insufficient cpu."),
    unschedulable(names.REASON_NO_DISK_FREE, "0/3 nodes are available: 3 Insufficient ephemeral-storage."),
    unschedulable(names.REASON_TAINTED, "0/1 nodes are available: 1 node(s) had untolerated taint {team: vision}."),
    unschedulable(names.REASON_NO_NODE_MATCHES,
                  "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."),
    unschedulable(names.REASON_NODES_CORDONED, "0/1 nodes are available: 1 node(s) were unschedulable."),
    unschedulable(names.REASON_PORT_TAKEN,
                  "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."),
    unschedulable(names.REASON_NODES_FULL, "0/1 nodes are available: 1 Too many pods."),
    unschedulable(names.REASON_KEPT_APART,
                  "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."),
    unschedulable(names.REASON_VOLUMES_FULL, "0/1 nodes are available: 1 node(s) exceed max volume count."),
    unschedulable(names.REASON_PVC_MISSING, 'persistentvolumeclaim "weights" not found'),
    unschedulable(names.REASON_PVC_PENDING, UNBOUND),
    unschedulable(names.REASON_VOLUME_ZONE, "0/1 nodes are available: 1 node(s) had volume node affinity conflict."),
    unschedulable(names.REASON_UNSCHEDULABLE, "no nodes available to schedule pods"),
    unschedulable(names.REASON_STORAGE_CLASS, UNBOUND, ("PersistentVolumeClaim", "ProvisioningFailed",
                  'storageclass.storage.k8s.io "fast" not found')),
    unschedulable(names.REASON_PROVISIONING, UNBOUND, ("PersistentVolumeClaim", "ProvisioningFailed",
                  "failed to provision volume: rpc error: code = Internal")),
    mount(names.REASON_MOUNT_SECRET, 'MountVolume.SetUp failed for volume "s" : secret "settings" not found'),
    mount(names.REASON_MOUNT_CONFIG_MAP, 'MountVolume.SetUp failed for volume "c" : configmap "settings" not found'),
    mount(names.REASON_MOUNT_HOST_PATH,
          'MountVolume.SetUp failed for volume "h" : hostPath type check failed: /data is not a directory'),
    mount(names.REASON_VOLUME_ATTACHED, "Multi-Attach error for volume pvc-1: it is already exclusively attached",
          "FailedAttachVolume"),
    mount(names.REASON_MOUNT, 'MountVolume.MountDevice failed for volume "d" : rpc error: timed out'),
    mount(names.REASON_SANDBOX, "Failed to create pod sandbox: rpc error: no runtime for nvidia is configured",
          "FailedCreatePodSandBox"),
    mount(names.REASON_STORAGE_DRIVER, 'MountVolume.MountDevice failed for volume "b" : kubernetes.io/csi: driver name '
          "blob.csi.azure.com not found in the list of registered CSI drivers"),
    mount(names.REASON_MOUNT_DENIED, 'MountVolume.SetUp failed for volume "n" : mount failed: exit status 32: '
          "mount.nfs: access denied by server while mounting nas:/models"),
    mount(names.REASON_POD_ADDRESSES, "Failed to create pod sandbox: rpc error: plugin type=aws-cni failed (add): add "
          "cmd: failed to assign an IP address to container", "FailedCreatePodSandBox"),
    image(names.REASON_REGISTRY_CERTIFICATE,
          "failed to do request: tls: failed to verify certificate: x509: certificate signed by unknown authority"),
    image(names.REASON_PULL_SECRET, 'failed to pull "r/x": 401 Unauthorized', "ErrImagePull",
          ("Pod", "FailedToRetrieveImagePullSecret",
           "Unable to retrieve some image pull secrets (regcred); attempting to pull the image may not succeed.")),
    image(names.REASON_PULL_UNAUTHORIZED, "pull access denied, repository does not exist or may require authorization"),
    image(names.REASON_IMAGE_MISSING, 'failed to resolve reference "docker.io/library/x:9": not found'),
    image(names.REASON_IMAGE_NAME, 'couldn\'t parse image name "X:::": invalid reference format', "InvalidImageName"),
    image(names.REASON_REGISTRY, "dial tcp: lookup registry.example.com: no such host"),
    image(names.REASON_IMAGE_PLATFORM, "no match for platform in manifest"),
    image(names.REASON_IMAGE_DISK, "failed to extract layer: write /x: no space left on device"),
    image(names.REASON_PULL_RATE, "toomanyrequests: You have reached your pull rate limit"),
    image(names.REASON_IMAGE_PULL, "something unheard of", "ImagePullBackOff"),
    start(names.REASON_ENV_SECRET, 'secret "token" not found'),
    start(names.REASON_ENV_CONFIG_MAP, 'configmap "env" not found'),
    start(names.REASON_ENV_KEY, "couldn't find key HF_TOKEN in Secret default/token"),
    start(names.REASON_RUNS_AS_ROOT, "container has runAsNonRoot and image will run as root"),
    start(names.REASON_COMMAND, 'exec: "kaito-runtime": executable file not found in $PATH', "RunContainerError"),
    start(names.REASON_GPU_DEVICE, "nvidia-container-cli: initialization error: nvml error", "RunContainerError"),
    start(names.REASON_CONTAINER_START, "something unheard of", "CreateContainerError"),
    PodFault(names.REASON_OOM_KILLED, _ended(exitCode=137, reason="OOMKilled")),
    PodFault(names.REASON_INIT_FAILED, INIT_FAILED, condition="ContainerCrashLoopBackOff"),
    log(names.REASON_CRASH_LOOP, "Segmentation fault"),
    probe(names.REASON_STARTUP_TIMEOUT, "Startup probe failed: HTTP probe failed with statuscode: 503", 137),
    probe(names.REASON_LIVENESS, "Liveness probe failed: context deadline exceeded", 143),
    PodFault(names.REASON_NOT_ANSWERING, NOT_ANSWERING,
             (("Pod", "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 502"),),
             "WorkspaceInferenceStatusPending"),
    words(names.REASON_WEIGHTS_NOT_FOUND, HUB, "No weights of org/model in /srv/weights"),
    words(names.REASON_HUB_UNREACHABLE, HUB, "The hub https://huggingface.co cannot be reached"),
    words(names.REASON_GATED, HUB, "org/model is gated and no token is given"),
    words(names.REASON_TOKEN, HUB, "The hub says: invalid user token"),
    words(names.REASON_REVISION, HUB, "RevisionNotFoundError: 404 Client Error"),
    words(names.REASON_MODEL_MISSING, HUB, "RepositoryNotFoundError: no such model"),
    words(names.REASON_HUB_RATE, HUB, "429 Client Error: Too Many Requests"),
    words(names.REASON_DISK_FULL, HUB, "OSError: [Errno 28] No space left on device"),
    words(names.REASON_HUB_CERTIFICATE, HUB,
          "SSLError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate"),
    words(names.REASON_PROXY, HUB,
          "MaxRetryError: ProxyError: Tunnel connection failed: 407 Proxy Authentication Required"),
    words(names.REASON_WEIGHTS_BROKEN, HUB, "SafetensorError: HeaderTooLarge"),
    words(names.REASON_WEIGHTS_BROKEN, HUB,
          "The weights of org/model cannot be used: model.safetensors is no safetensors file."),
    words(names.REASON_CUDA_MEMORY, ENGINE, "The GPU ran out of memory"),
    words(names.REASON_KV_CACHE, ENGINE, "The model leaves too little memory for its KV cache"),
    words(names.REASON_UNKNOWN_FLAG, ENGINE, "The engine does not know the option --max-modle-len"),
    words(names.REASON_CONFIG_INVALID, OPTION, "The engine refuses the option --dtype: invalid choice"),
    words(names.REASON_TOO_LONG, ENGINE,
          "User-specified max_model_len (99999) is greater than the derived max_model_len (4096)"),
    words(names.REASON_ADAPTER, ENGINE, "The adapter style has rank 512, more than max_lora_rank"),
    words(names.REASON_ENGINE_MISSING, names.REASON_ENGINE_MISSING, "No module named 'vllm'"),
    words(names.REASON_ENGINE_FAILED, ENGINE, "The vllm engine ended with exit code 1"),
    log(names.REASON_CUDA, "RuntimeError: CUDA error: an illegal memory access was encountered"),
    log(names.REASON_GPU_LOST, "NVRM: Xid (PCI:0000:65:00): 79, GPU has fallen off the bus."),
    log(names.REASON_GPU_MEMORY, "RuntimeError: CUDA error: uncorrectable ECC error encountered"),
    log(names.REASON_SHARED_MEMORY, "OSError: [Errno 28] No space left on device: '/dev/shm/psm_1'"),
    log(names.REASON_NOT_WRITABLE, "PermissionError: [Errno 13] Permission denied: '/cache/huggingface'"),
    log(names.REASON_DRIVER, "RuntimeError: The NVIDIA driver on your system is too old (found version 11040)"),
    log(names.REASON_NO_GPU, "RuntimeError: No CUDA GPUs are available"),
    log(names.REASON_NCCL, "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1970"),
    log(names.REASON_ARCHITECTURE, "ValueError: Model architectures ['X'] are not supported for now"),
    gone(names.REASON_DISK_PRESSURE, "Evicted", "The node was low on resource: ephemeral-storage", "NodeDiskPressure"),
    gone(names.REASON_MEMORY_PRESSURE, "Evicted", "The node was low on resource: memory", "NodeMemoryPressure"),
    gone(names.REASON_PREEMPTED, "Preempting", "Preempted in order to admit critical pod"),
    gone(names.REASON_NODE_SHUTDOWN, "Terminated", "Pod was terminated in response to imminent node shutdown."),
    gone(names.REASON_DEVICE_UNHEALTHY, "UnexpectedAdmissionError",
         "Allocate failed due to no healthy devices present; cannot allocate unhealthy devices nvidia.com/gpu"),
    gone(names.REASON_KUBELET_REFUSED, "OutOfcpu", "Node didn't have enough resource: cpu"),
    gone(names.REASON_DRAINED, "Evicted", "Eviction API: evicting to drain the node"),
    gone(names.REASON_DEADLINE, "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"),
    gone(names.REASON_EVICTED, "Evicted", "no cause that anybody knows"),
    refused(names.REASON_QUOTA, 'pods "demo-0" is forbidden: exceeded quota: gpus, requested: nvidia.com/gpu=1'),
    refused(names.REASON_POD_SECURITY, 'pods "demo-0" is forbidden: violates PodSecurity "restricted:latest": x'),
    refused(names.REASON_LIMIT_RANGE, 'pods "demo-0" is forbidden: maximum memory usage per Pod is 1Gi'),
    refused(names.REASON_SERVICE_ACCOUNT, 'error looking up service account default/x: serviceaccount "x" not found'),
    refused(names.REASON_PRIORITY_CLASS, "no PriorityClass with name high was found"),
    refused(names.REASON_NAMESPACE_LEAVING, 'pods "demo-0" is forbidden: unable to create new content in namespace '
            "default because it is being terminated"),
    refused(names.REASON_RUNTIME_CLASS,
            'pods "demo-0" is forbidden: pod rejected: RuntimeClass "nvidia" not found'),
    refused(names.REASON_WEBHOOK_DOWN,
            'Internal error occurred: failed calling webhook "mutate.mesh.io": failed to call webhook: Post '
            '"https://mesh.istio-system.svc:443": dial tcp 10.0.0.7:443: connect: connection refused'),
    refused(names.REASON_WEBHOOK, 'admission webhook "policy.example.com" denied the request: no GPUs here'),
    refused(names.REASON_REFUSED, "something unheard of"),
)  # fmt: skip

NODE_FAULTS = (
    (names.REASON_NODE_NOT_READY, {"reason": "KubeletNotReady", "message": "something unheard of"}),
    (names.REASON_NODE_LOST, {"status": "Unknown", "reason": "NodeStatusUnknown",
                              "message": "Kubelet stopped posting node status."}),
    (names.REASON_NODE_NETWORK, {"reason": "KubeletNotReady",
                                 "message": "container runtime network not ready: NetworkReady=false cni plugin"}),
    (names.REASON_NODE_RUNTIME, {"reason": "KubeletNotReady", "message": "[container runtime is down]"}),
)  # fmt: skip

API_FAULTS = (
    (names.REASON_FORBIDDEN, 'statefulsets.apps "demo" is forbidden: User "x" cannot patch resource "statefulsets"'),
    (names.REASON_KIND_MISSING, "the server could not find the requested resource"),
    (names.REASON_QUOTA, "exceeded quota: objects, requested: count/services=1"),
    (names.REASON_REFUSED, "spec.replicas: Invalid value"),
)

ORDER_FAULTS = (
    (names.REASON_NODE_QUOTA, "exceeding approved quota"),
    (names.REASON_NODE_CAPACITY, "InsufficientCapacityError: none left"),
    (names.REASON_NODE_UNAUTHORIZED, "AuthorizationFailed"),
    (names.REASON_NODE_BUDGET, "waits for room in NodeBudget default (no node is left): raise its limit"),
    (
        names.REASON_NO_GPU_PLUGIN,
        "node n shows no nvidia.com/gpu after 15 minutes: see the device plugin's pods on the node.",
    ),
    (names.REASON_NODE_RECLAIMED, "SpotInterrupted: the spot machine is taken back"),
    (names.REASON_NODE_CLASS, "NodeClass default not found"),
    (names.REASON_NODE_TYPE, "no instance type satisfied the requirements"),
    (names.REASON_ORDER_FAILED, "creating the machine failed for a cause unheard of"),
)
