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
WEIGHTS_IMAGE_ANNOTATION: Final = "kaito.sh/weights-image"
WEIGHTS_SECRETS_ANNOTATION: Final = "kaito.sh/weights-image-pull-secrets"
USE_LOCAL_WEIGHTS_ANNOTATION: Final = "kaito.sh/use-local-weights"
REVISION_HASH_ANNOTATION: Final = "workspace.kaito.io/hash"
REVISION_ANNOTATION: Final = "workspace.kaito.io/revision"
TOLERATIONS_ANNOTATION: Final = "kaito.sh/tolerations"
"""Ours: taints that the pods accept beside those of GPU nodes, as `kubectl taint` writes them, with commas between."""
API_KEYS_ANNOTATION: Final = "kaito.sh/api-keys-secret"
"""Ours: the Secret with the API keys that the model server asks for, one entry a client."""
BENCHMARK_ANNOTATION: Final = "kaito.sh/benchmark"
"""Ours: `full` measures under as many streams as the engine takes, as KAITO does; `light` under four."""
MERGE_ANNOTATION: Final = "kaito.sh/merge-adapter"
"""Ours: on a tuning, `true` makes the whole model with the adapter in it the result."""
NODE_ORDERS_ANNOTATION: Final = "kaito.sh/node-orders"
"""Ours: how often and when each node was last ordered, so that orders that fail are paced whoever operates."""
CONFIG_HASH_ANNOTATION: Final = "kaito.sh/config-hash"
"""Ours: on the pod template, so that a changed ServeConfig rolls the pods."""

PROGRESS_MARK: Final = "kaito-progress: "
"""Begins a line of a tuner's log that holds a `contracts.TuneProgress` as JSON."""
BENCHMARK_MARK: Final = "KAITO_BENCHMARK_RESULT "
"""Begins a line of a model server's log that holds, after the time, a `contracts.BenchmarkResult` as JSON."""

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
REASON_TUNING_STARTED: Final = "WorkspaceTuningJobStatusStarted"
REASON_TUNING_PENDING: Final = "WorkspaceTuningJobStatusPending"
REASON_TUNING_JOB_FAILED: Final = "WorkspaceTuningJobStatusFailed"

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
REASON_ARTIFACT_NOT_FOUND: Final = "ArtifactNotFound"
REASON_ARTIFACT_UNAUTHORIZED: Final = "ArtifactUnauthorized"
REASON_ARTIFACT_UNAVAILABLE: Final = "ArtifactUnavailable"
REASON_ARTIFACT_INVALID: Final = "ArtifactInvalid"
REASON_NO_NODE_PROVISIONER: Final = "NodeProvisionerMissing"
REASON_NODE_QUOTA: Final = "NodeQuotaExceeded"
REASON_NODE_BUDGET: Final = "NodeBudgetExhausted"
REASON_NODE_CAPACITY: Final = "NodeCapacityExhausted"
REASON_NODE_UNAUTHORIZED: Final = "NodeProvisionerUnauthorized"
REASON_NO_GPU_PLUGIN: Final = "GPUPluginMissing"

# Precise reasons of failures (`status.failure.reason`, and the reason of the event); `kaito.operator.faults` has what
# they mean and what helps. Where KAITO has a word for their class, the condition's reason is that word.
REASON_CONFIG_MISSING: Final = "InferenceConfigMissing"
REASON_CONFIG_KEY_MISSING: Final = "InferenceConfigKeyMissing"
REASON_NODES_MISSING: Final = "NodesMissing"
REASON_NODE_LOST: Final = "NodeLost"
REASON_NODE_RECLAIMED: Final = "NodeReclaimed"
REASON_NODE_NETWORK: Final = "NodeNetworkNotReady"
REASON_NODE_RUNTIME: Final = "NodeContainerRuntimeDown"
REASON_NODE_LEAVING: Final = "NodeBeingDeleted"
REASON_GPU_TOO_SMALL: Final = "GPUMemoryTooSmall"
REASON_NODE_NEVER_CAME: Final = "NodeNeverRegistered"
REASON_NODE_CLASS: Final = "NodeClassNotReady"
REASON_NODE_TYPE: Final = "InstanceTypeUnavailable"
REASON_ORDER_PACED: Final = "NodeOrderPaced"
REASON_ORDER_FAILED: Final = "NodeOrderFailed"
REASON_QUOTA: Final = "QuotaExceeded"
REASON_POD_SECURITY: Final = "PodSecurityRefused"
REASON_FORBIDDEN: Final = "PermissionDenied"
REASON_WEBHOOK: Final = "AdmissionWebhookRefused"
REASON_LIMIT_RANGE: Final = "LimitRangeExceeded"
REASON_SERVICE_ACCOUNT: Final = "ServiceAccountMissing"
REASON_PRIORITY_CLASS: Final = "PriorityClassMissing"
REASON_KIND_MISSING: Final = "KindMissing"
REASON_NO_GPU_FREE: Final = "NotEnoughGPUs"
REASON_NO_MEMORY_FREE: Final = "NotEnoughMemory"
REASON_NO_CPU_FREE: Final = "NotEnoughCPU"
REASON_NO_DISK_FREE: Final = "NotEnoughEphemeralStorage"
REASON_TAINTED: Final = "NodesTainted"
REASON_NO_NODE_MATCHES: Final = "NodeSelectorUnmatched"
REASON_PORT_TAKEN: Final = "HostPortConflict"
REASON_NODES_FULL: Final = "TooManyPods"
REASON_NODES_CORDONED: Final = "NodesCordoned"
REASON_PVC_MISSING: Final = "VolumeClaimMissing"
REASON_PVC_PENDING: Final = "VolumeClaimPending"
REASON_STORAGE_CLASS: Final = "StorageClassMissing"
REASON_PROVISIONING: Final = "VolumeProvisioningFailed"
REASON_VOLUME_ZONE: Final = "VolumeElsewhere"
REASON_MOUNT_SECRET: Final = "MountedSecretMissing"
REASON_MOUNT_CONFIG_MAP: Final = "MountedConfigMapMissing"
REASON_MOUNT_HOST_PATH: Final = "HostFolderMissing"
REASON_VOLUME_ATTACHED: Final = "VolumeInUseElsewhere"
REASON_MOUNT: Final = "VolumeMountFailed"
REASON_SANDBOX: Final = "PodSandboxFailed"
REASON_PULL_SECRET: Final = "ImagePullSecretMissing"
REASON_PULL_UNAUTHORIZED: Final = "ImagePullUnauthorized"
REASON_IMAGE_MISSING: Final = "ImageNotFound"
REASON_IMAGE_NAME: Final = "ImageNameInvalid"
REASON_REGISTRY: Final = "RegistryUnreachable"
REASON_IMAGE_PLATFORM: Final = "ImagePlatformMissing"
REASON_IMAGE_DISK: Final = "ImageDiskFull"
REASON_PULL_RATE: Final = "ImagePullRateLimited"
REASON_ENV_SECRET: Final = "SecretMissing"
REASON_ENV_CONFIG_MAP: Final = "ConfigMapMissing"
REASON_ENV_KEY: Final = "SecretKeyMissing"
REASON_RUNS_AS_ROOT: Final = "ImageRunsAsRoot"
REASON_COMMAND: Final = "CommandNotFound"
REASON_GPU_DEVICE: Final = "GPUDeviceFailed"
REASON_INIT_FAILED: Final = "InitContainerFailed"
REASON_STARTUP_TIMEOUT: Final = "StartupTimedOut"
REASON_LIVENESS: Final = "LivenessProbeFailed"
REASON_NOT_ANSWERING: Final = "ServerNotAnswering"
REASON_PREEMPTED: Final = "PodPreempted"
REASON_DRAINED: Final = "PodDrained"
REASON_NODE_SHUTDOWN: Final = "NodeShutdown"
REASON_KUBELET_REFUSED: Final = "NodeRefusedPod"
REASON_DEVICE_UNHEALTHY: Final = "GPUUnhealthy"
REASON_ENDPOINTS: Final = "ServiceWithoutEndpoints"
REASON_HUB_UNREACHABLE: Final = "HubUnreachable"
REASON_GATED: Final = "ModelGated"
REASON_TOKEN: Final = "HubTokenRefused"
REASON_REVISION: Final = "ModelRevisionNotFound"
REASON_MODEL_MISSING: Final = "ModelNotFound"
REASON_HUB_RATE: Final = "HubRateLimited"
REASON_DISK_FULL: Final = "DiskFull"
REASON_CUDA: Final = "CUDAError"
REASON_CUDA_MEMORY: Final = "GPUOutOfMemory"
REASON_DRIVER: Final = "GPUDriverTooOld"
REASON_NO_GPU: Final = "GPUNotFound"
REASON_KV_CACHE: Final = "KVCacheTooSmall"
REASON_TOO_LONG: Final = "ModelLengthTooLong"
REASON_UNKNOWN_FLAG: Final = "UnknownEngineOption"
REASON_ADAPTER: Final = "AdapterInvalid"
REASON_ARCHITECTURE: Final = "ModelArchitectureUnsupported"
REASON_WEIGHTS_BROKEN: Final = "ModelWeightsBroken"
REASON_NCCL: Final = "GPUCommunicationFailed"
REASON_TUNING_DATA_EMPTY: Final = "TuningDataEmpty"
REASON_TUNING_COLUMNS: Final = "TuningDataColumnsUnknown"
REASON_TUNING_ROWS_EMPTY: Final = "TuningDataRowsEmpty"
REASON_TUNING_ROWS: Final = "TuningDataRowsInvalid"
REASON_TUNING_ENCODING: Final = "TuningDataNotUTF8"
REASON_TUNING_FILE: Final = "TuningDataFileBroken"
REASON_TUNING_ADDRESS: Final = "TuningDataAddressRefused"
REASON_TUNING_CONFIG: Final = "TuningConfigInvalid"
REASON_TUNING_MODEL: Final = "TuningModelUnsupported"
REASON_TUNING_MEMORY: Final = "TuningDoesNotFit"
REASON_TUNING_DIVERGED: Final = "TuningDiverged"
REASON_PUSH_UNAUTHORIZED: Final = "PushUnauthorized"
REASON_TUNING_FAILED: Final = "TuningFailed"

# Reasons of events about a Workspace; a failure's event has the failure's reason
EVENT_NODES_READY: Final = "NodesReady"
EVENT_SERVING: Final = "Serving"
EVENT_TUNING_STARTED: Final = "TuningStarted"
EVENT_TUNED: Final = "Tuned"
EVENT_WORKLOAD_MIGRATION: Final = "WorkloadMigration"
EVENT_NODE_CLAIM_CREATED: Final = "NodeClaimCreated"
EVENT_NODE_CLAIM_CREATION_FAILED: Final = "NodeClaimCreationFailed"
EVENT_NODE_CLAIM_REPLACED: Final = "NodeClaimReplaced"
EVENT_NODE_CLAIM_REMOVED: Final = "NodeClaimRemoved"

# Steps of status.timeline, in their order
STEP_NODES_REQUESTED: Final = "NodesRequested"
STEP_NODES_READY: Final = "NodesReady"
STEP_IMAGE_PULLED: Final = "ImagePulled"
STEP_WEIGHTS_LOADED: Final = "WeightsLoaded"
STEP_ENGINE_READY: Final = "EngineReady"
STEP_SERVING: Final = "Serving"
TIMELINE_STEPS: Final = (
    STEP_NODES_REQUESTED,
    STEP_NODES_READY,
    STEP_IMAGE_PULLED,
    STEP_WEIGHTS_LOADED,
    STEP_ENGINE_READY,
    STEP_SERVING,
)
