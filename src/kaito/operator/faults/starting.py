# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of a pod that has a node: its images, the start of its containers, how they end, evictions, probes."""

from __future__ import annotations

from kaito.api import names
from kaito.operator.faults.fault import Fault

PULL = names.REASON_IMAGE_PULL
IMAGES = (
    Fault(names.REASON_PULL_SECRET, "image", "A pull secret that the pod names does not exist",
          "Create the Secret that the message names, of type kubernetes.io/dockerconfigjson.",
          (r"FailedToRetrieveImagePullSecret", r"unable to retrieve some image pull secrets"), PULL),
    Fault(names.REASON_IMAGE_NAME, "image", "The name of an image is not one",
          "Correct the image's name: registry/repository:tag.",
          ("InvalidImageName", "couldn't parse image", "invalid reference format"), PULL),
    Fault(names.REASON_PULL_RATE, "image", "The registry serves no more pulls for now",
          "Wait, pull with an account (imagePullSecrets), or use a mirror.",
          ("toomanyrequests", "rate limit", r"\b429\b"), PULL),
    Fault(names.REASON_IMAGE_DISK, "image", "The node has no disk space left for the image",
          "Free space on the node, or use nodes with a bigger disk.", ("no space left on device",), PULL),
    Fault(names.REASON_IMAGE_PLATFORM, "image", "The image is not made for the node's processor",
          "Use an image for the node's architecture, or other nodes.",
          ("no match for platform", "exec format error", "no matching manifest"), PULL),
    Fault(names.REASON_PULL_UNAUTHORIZED, "image", "The registry does not let the node pull the image",
          "Correct the image's name, or name a pull secret (imagePullSecrets).",
          ("unauthorized", r"\b401\b", r"\b403\b", "authentication required", "access denied", "denied:",
           "authorization failed", "pull access denied"), PULL),
    Fault(names.REASON_REGISTRY_CERTIFICATE, "image", "The node does not trust the registry's certificate",
          "Give the node's container runtime the registry's CA, or use a registry with a public certificate.",
          ("x509", "certificate signed by unknown authority"), PULL),
    Fault(names.REASON_REGISTRY, "image", "The registry cannot be reached",
          "Check the registry's address and the node's network and proxy.",
          ("no such host", "dial tcp", "i/o timeout", "connection refused", "TLS handshake",
           "RegistryUnavailable", "context deadline exceeded", "server misbehaving"), PULL),
    Fault(names.REASON_IMAGE_MISSING, "image", "There is no such image",
          "Correct the image's name and tag.",
          ("not found", "manifest unknown", "does not exist", "ErrImageNeverPull", "no such image"), PULL),
    Fault(PULL, "image", "An image cannot be had", "Correct the image's name or the pull secret."),
)  # fmt: skip

START = names.REASON_CONTAINER_START
STARTS = (
    Fault(names.REASON_ENV_SECRET, "start", "A Secret that a variable is taken from does not exist",
          "Create the Secret that the message names in the Workspace's namespace.", (r"secret \S+ not found",), START),
    Fault(names.REASON_ENV_CONFIG_MAP, "start", "A ConfigMap that a variable is taken from does not exist",
          "Create the ConfigMap that the message names in the Workspace's namespace.",
          (r"configmap \S+ not found",), START),
    Fault(names.REASON_ENV_KEY, "start", "A Secret or ConfigMap lacks the key that a variable is taken from",
          "Add the key that the message names.", (r"couldn't find key", "no key"), START),
    Fault(names.REASON_RUNS_AS_ROOT, "start", "The image runs as root, which the pod forbids",
          "Use an image with a user of its own, or set runAsUser in the template.",
          ("runAsNonRoot", "non-root"), START),
    Fault(names.REASON_COMMAND, "start", "The image does not have the command",
          "Correct the command, or use an image that has it.",
          ("executable file not found", "no such file or directory", "permission denied: unknown"), START),
    Fault(names.REASON_GPU_DEVICE, "start", "The node cannot give the container its GPU",
          "Check the node's NVIDIA driver and container toolkit (nvidia-smi on the node).",
          ("nvidia-container", r"\bCDI\b", "nvml", "libcuda"), START),
    Fault(START, "start", "A container cannot be started", "See kubectl describe pod {pod}."),
)  # fmt: skip

ENDS = (
    Fault(names.REASON_OOM_KILLED, "end", "A container used more memory than it may",
          "Use a smaller model or a node with more memory.", (r"OOMKilled",)),
    Fault(names.REASON_INIT_FAILED, "end", "A container that prepares files keeps failing",
          "See kubectl logs {pod} -c {container} --previous.",
          (r"^init container",), names.REASON_CRASH_LOOP),
    Fault(names.REASON_CRASH_LOOP, "end", "A container keeps ending", "See kubectl logs {pod} --previous."),
)  # fmt: skip

EVICTIONS = (
    Fault(names.REASON_DISK_PRESSURE, "eviction", "The pod was evicted because its node ran out of disk space",
          "Free space on the node, or use nodes with a bigger disk.", ("disk", "ephemeral", "inodes")),
    Fault(names.REASON_MEMORY_PRESSURE, "eviction", "The pod was evicted because its node ran out of memory",
          "Use nodes with more memory, or move other pods away.", (r"low on resource: memory", "MemoryPressure")),
    Fault(names.REASON_PREEMPTED, "eviction", "The pod made room for one of higher priority",
          "Give the template a PriorityClass, or add nodes.", ("preempt",), names.REASON_EVICTED),
    Fault(names.REASON_NODE_SHUTDOWN, "eviction", "The pod's node is shutting down",
          "Wait for the node to come back, or add one.", ("shutting down", "shutdown"), names.REASON_EVICTED),
    Fault(names.REASON_DEVICE_UNHEALTHY, "eviction", "The node has no healthy GPU for the pod",
          "Check the GPUs of the node (nvidia-smi, dmesg for Xid errors), and drain it.",
          ("Allocate failed", "no healthy devices", "UnexpectedAdmissionError"), names.REASON_EVICTED),
    Fault(names.REASON_KUBELET_REFUSED, "eviction", "The node refused the pod after it was scheduled",
          "Nothing to do where the pod is made again; else see kubectl describe node.",
          (r"OutOf\w+", "NodeAffinity", "NodePorts", "didn't have enough resource"), names.REASON_EVICTED),
    Fault(names.REASON_DRAINED, "eviction", "The pod was removed to drain its node",
          "Wait until it runs on another node; add nodes if none has room.",
          ("EvictionByEvictionAPI", "DeletionByTaintManager", "drain", "taint"), names.REASON_EVICTED),
    Fault(names.REASON_DEADLINE, "eviction", "The pod ran longer than its template allows",
          "Raise activeDeadlineSeconds of the template, or take it out.",
          ("DeadlineExceeded", "active on the node longer than"), names.REASON_EVICTED),
    Fault(names.REASON_EVICTED, "eviction", "The pod was evicted for another cause", "See the message."),
)  # fmt: skip

PROBES = (
    Fault(names.REASON_STARTUP_TIMEOUT, "probe", "The model server was not up in the time that its model may take",
          "See kubectl logs {pod} --previous for what it was doing; a slow disk or network is the usual cause.",
          ("Startup probe failed",), names.REASON_CRASH_LOOP),
    Fault(names.REASON_LIVENESS, "probe", "The model server stopped answering and was restarted",
          "See kubectl logs {pod} --previous for its last lines.", ("Liveness probe failed",),
          names.REASON_CRASH_LOOP),
    Fault(names.REASON_NOT_ANSWERING, "probe", "The model server runs and does not answer",
          "See kubectl logs {pod}; it is restarted when it stays so.", (), names.REASON_INFERENCE_PENDING),
)  # fmt: skip

SERVICES = (
    Fault(names.REASON_ENDPOINTS, "service", "The pods are ready, and the Service selects none of them",
          "The Service needs pods with the label that the message names: Kubernetes 1.28 or later sets it.",
          (), names.REASON_INFERENCE_PENDING),
)  # fmt: skip
