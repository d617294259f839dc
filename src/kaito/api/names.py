# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Every label, annotation, finalizer, condition type and reason that users and tools can see, once.

Keys, finalizers, condition types and the reasons marked "as KAITO" are those of KAITO v0.12, so that dashboards,
scripts and objects made by it keep working. Nothing else in the code spells such a string out.
"""

from __future__ import annotations

from typing import Final

GROUP: Final = "kaito.sh"

# Labels
WORKSPACE_LABEL: Final = "kaito.sh/workspace"
WORKSPACE_NAMESPACE_LABEL: Final = "kaito.sh/workspacenamespace"
RAGENGINE_LABEL: Final = "kaito.sh/ragengine"
RAGENGINE_NAMESPACE_LABEL: Final = "kaito.sh/ragenginenamespace"
KARPENTER_WORKSPACE_LABEL: Final = "karpenter.kaito.sh/workspace-name"
KARPENTER_WORKSPACE_NAMESPACE_LABEL: Final = "karpenter.kaito.sh/workspace-namespace"
KARPENTER_INFERENCESET_LABEL: Final = "karpenter.kaito.sh/inferenceset"
KARPENTER_INFERENCESET_NAMESPACE_LABEL: Final = "karpenter.kaito.sh/inferenceset-namespace"
INFERENCESET_CREATED_BY_LABEL: Final = "inferenceset.kaito.sh/created-by"
MULTIROLE_CREATED_BY_LABEL: Final = "multiroleinference.kaito.sh/created-by"
INFERENCE_ROLE_LABEL: Final = "kaito.sh/inference-role"
REVISION_NAME_LABEL: Final = "workspace.kaito.io/name"
POD_INDEX_LABEL: Final = "apps.kubernetes.io/pod-index"
KARPENTER_MANAGED_BY_LABEL: Final = "karpenter.kaito.sh/managed-by"
ACCELERATOR_LABEL: Final = "accelerator"
"""On the GPU nodes that we order: `nvidia`. Device plugins select nodes by it."""

RESERVED_SELECTOR_KEYS: Final = frozenset(
    {
        WORKSPACE_LABEL,
        WORKSPACE_NAMESPACE_LABEL,
        RAGENGINE_LABEL,
        RAGENGINE_NAMESPACE_LABEL,
        KARPENTER_WORKSPACE_LABEL,
        KARPENTER_WORKSPACE_NAMESPACE_LABEL,
        KARPENTER_INFERENCESET_LABEL,
        KARPENTER_INFERENCESET_NAMESPACE_LABEL,
    }
)
"""Keys that are ignored in a user's `resource.labelSelector.matchLabels`."""

# Annotations
ENABLE_LB_ANNOTATION: Final = "kaito.sh/enablelb"
RUNTIME_ANNOTATION: Final = "kaito.sh/runtime"
BYPASS_RESOURCE_CHECKS_ANNOTATION: Final = "kaito.sh/bypass-resource-checks"
NODE_IMAGE_FAMILY_ANNOTATION: Final = "kaito.sh/node-image-family"
NODE_CLASS_NAME_ANNOTATION: Final = "kaito.sh/node-class-name"
DISABLE_BENCHMARK_ANNOTATION: Final = "kaito.sh/disable-benchmark"
PERFORMANCE_MODE_ANNOTATION: Final = "kaito.sh/performance-mode"
USE_LOCAL_WEIGHTS_ANNOTATION: Final = "kaito.sh/use-local-weights"
REVISION_HASH_ANNOTATION: Final = "workspace.kaito.io/hash"
REVISION_ANNOTATION: Final = "workspace.kaito.io/revision"
TOLERATIONS_ANNOTATION: Final = "kaito.sh/tolerations"
"""Ours: taints that the pods accept beside those of GPU nodes, as `kubectl taint` writes them, with commas between."""
NODE_ORDERS_ANNOTATION: Final = "kaito.sh/node-orders"
"""Ours: how often and when each node was last ordered, so that orders that fail are paced whoever operates."""
CONFIG_HASH_ANNOTATION: Final = "kaito.sh/config-hash"
"""Ours: on the pod template, so that a changed ServeConfig rolls the pods."""

# Finalizers
WORKSPACE_FINALIZER: Final = "workspace.finalizer.kaito.sh"

# Condition types of a Workspace (as KAITO, but WorkspaceReady, which the seeds ask for)
NODES_READY: Final = "NodesReady"
NODE_CLAIM_READY: Final = "NodeClaimReady"
RESOURCE_READY: Final = "ResourceReady"
INFERENCE_READY: Final = "InferenceReady"
JOB_STARTED: Final = "JobStarted"
WORKSPACE_READY: Final = "WorkspaceReady"
WORKSPACE_SUCCEEDED: Final = "WorkspaceSucceeded"
WORKSPACE_DELETING: Final = "WorkspaceDeleting"

# Reasons of these conditions: as KAITO
REASON_NODES_READY: Final = "NodesReady"
REASON_NODE_NOT_READY: Final = "NodeNotReady"
REASON_RESOURCE_READY: Final = "workspaceResourceStatusSuccess"
REASON_RESOURCE_NOT_READY: Final = "workspaceResourceStatusNotReady"
REASON_INFERENCE_READY: Final = "WorkspaceInferenceStatusSuccess"
REASON_INFERENCE_PENDING: Final = "WorkspaceInferenceStatusPending"
REASON_OOM_KILLED: Final = "ContainerOOMKilled"
REASON_IMAGE_PULL: Final = "ImagePullError"
REASON_CONTAINER_START: Final = "ContainerStartError"
REASON_CRASH_LOOP: Final = "ContainerCrashLoopBackOff"
REASON_DISK_PRESSURE: Final = "NodeDiskPressure"
REASON_MEMORY_PRESSURE: Final = "NodeMemoryPressure"
REASON_EVICTED: Final = "PodEvicted"
REASON_UNSCHEDULABLE: Final = "Unschedulable"
REASON_SUCCEEDED: Final = "workspaceSucceeded"
REASON_PENDING: Final = "workspacePending"
REASON_FAILED: Final = "workspaceFailed"
REASON_DELETED: Final = "workspaceDeleted"
REASON_NODE_CLAIMS_READY: Final = "NodeClaimsReady"
REASON_NODE_CLAIM_NOT_READY: Final = "NodeClaimNotReady"

# Reasons that are ours: each names what the user can do something about
REASON_UNKNOWN_PRESET: Final = "UnknownPreset"
REASON_INVALID_SPEC: Final = "InvalidSpec"
REASON_WEIGHTS_NOT_FOUND: Final = "ModelWeightsNotFound"
REASON_NOT_SUPPORTED_HERE: Final = "NotSupportedHere"
REASON_CONFIG_INVALID: Final = "InferenceConfigInvalid"
REASON_ENGINE_MISSING: Final = "InferenceEngineMissing"
REASON_ENGINE_FAILED: Final = "InferenceEngineFailed"
REASON_NAME_TAKEN: Final = "NameTaken"
REASON_REFUSED: Final = "Refused"
REASON_NO_NODE_PROVISIONER: Final = "NodeProvisionerMissing"
REASON_NODE_QUOTA: Final = "NodeQuotaExceeded"
REASON_NODE_CAPACITY: Final = "NodeCapacityExhausted"
REASON_NODE_UNAUTHORIZED: Final = "NodeProvisionerUnauthorized"
REASON_NO_GPU_PLUGIN: Final = "GPUPluginMissing"

# Reasons of events about a Workspace; a failure's event has the condition's reason
EVENT_NODES_READY: Final = "NodesReady"
EVENT_SERVING: Final = "Serving"
EVENT_WORKLOAD_MIGRATION: Final = "WorkloadMigration"
EVENT_NODE_CLAIM_CREATED: Final = "NodeClaimCreated"
EVENT_NODE_CLAIM_CREATION_FAILED: Final = "NodeClaimCreationFailed"
EVENT_NODE_CLAIM_REPLACED: Final = "NodeClaimReplaced"
EVENT_NODE_CLAIM_REMOVED: Final = "NodeClaimRemoved"
