# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The kinds by which nodes are ordered, and every label, annotation, finalizer, taint, condition and reason about them.

The names under karpenter.sh are Karpenter's (kubernetes-sigs/karpenter, pkg/apis/v1), so that whoever reads its claims
reads ours. Those under provisioner.kaito.sh are our own.
"""

from __future__ import annotations

from typing import Final

from kaito.kube.resource import Resource

NODE_CLAIMS = Resource("karpenter.sh", "v1", "nodeclaims", "NodeClaim", namespaced=False)
MACHINES = Resource("karpenter.sh", "v1alpha5", "machines", "Machine", namespaced=False)
NODE_BUDGETS = Resource("kaito.sh", "v1alpha1", "nodebudgets", "NodeBudget", namespaced=False)

# Karpenter's
TERMINATION_FINALIZER: Final = "karpenter.sh/termination"
UNREGISTERED_TAINT: Final = "karpenter.sh/unregistered"
DISRUPTED_TAINT: Final = "karpenter.sh/disrupted"
REGISTERED_LABEL: Final = "karpenter.sh/registered"
INITIALIZED_LABEL: Final = "karpenter.sh/initialized"
CAPACITY_TYPE_LABEL: Final = "karpenter.sh/capacity-type"
DO_NOT_SYNC_TAINTS_LABEL: Final = "karpenter.sh/do-not-sync-taints"
DO_NOT_DISRUPT_ANNOTATION: Final = "karpenter.sh/do-not-disrupt"
TERMINATION_TIME_ANNOTATION: Final = "karpenter.sh/nodeclaim-termination-timestamp"
EXCLUDE_BALANCER_LABEL: Final = "node.kubernetes.io/exclude-from-external-load-balancers"

# Kubernetes' own, which machines are chosen by
INSTANCE_TYPE_LABEL: Final = "node.kubernetes.io/instance-type"
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
REGION_LABEL: Final = "topology.kubernetes.io/region"
OS_LABEL: Final = "kubernetes.io/os"
ARCHITECTURE_LABEL: Final = "kubernetes.io/arch"
GPU_RESOURCE: Final = "nvidia.com/gpu"

# Ours
CLAIM_LABEL: Final = "provisioner.kaito.sh/claim"
"""On every node and machine: the name of its claim."""
CLAIM_UID_LABEL: Final = "provisioner.kaito.sh/claim-uid"
"""The same by uid: a name can be used again."""
CLUSTER_LABEL: Final = "provisioner.kaito.sh/cluster"
"""On every machine: the cluster that it was made for."""
ATTEMPT_ANNOTATION: Final = "provisioner.kaito.sh/attempt"
"""On a claim: which machine is being asked for, written down before the cloud is asked."""
REPLACED_ANNOTATION: Final = "provisioner.kaito.sh/replaced"
"""On a claim: up to which attempt machines are given up, how many were replaced, and why."""

# Conditions
LAUNCHED: Final = "Launched"
REGISTERED: Final = "Registered"
INITIALIZED: Final = "Initialized"
READY: Final = "Ready"
DRIFTED: Final = "Drifted"
DRAINED: Final = "Drained"
VOLUMES_DETACHED: Final = "VolumesDetached"
INSTANCE_TERMINATING: Final = "InstanceTerminating"

# Reasons, Karpenter's where it has a word
REASON_WAITING: Final = "AwaitingReconciliation"
REASON_LAUNCH_FAILED: Final = "LaunchFailed"
REASON_NODE_NOT_FOUND: Final = "NodeNotFound"
REASON_SEVERAL_NODES: Final = "MultipleNodesFound"
REASON_NODE_NOT_READY: Final = "NodeNotReady"
REASON_STARTUP_TAINTS: Final = "StartupTaintsExist"
REASON_EPHEMERAL_TAINTS: Final = "KnownEphemeralTaintsExist"
REASON_RESOURCE_MISSING: Final = "ResourceNotRegistered"
REASON_DRAINING: Final = "Draining"
REASON_DETACHING: Final = "AwaitingVolumeDetachment"
REASON_GRACE_ELAPSED: Final = "TerminationGracePeriodElapsed"
# and ours
REASON_CAPACITY: Final = "InsufficientCapacity"
REASON_QUOTA: Final = "QuotaExceeded"
REASON_UNAUTHORISED: Final = "Unauthorized"
REASON_THROTTLED: Final = "Throttled"
REASON_UNCLEAR: Final = "CloudUnavailable"
REASON_REJECTED: Final = "RejectedByCloud"
REASON_NAME_TAKEN: Final = "OwnedByAnother"
REASON_NO_TYPE: Final = "UnknownInstanceType"
REASON_IMPOSSIBLE: Final = "ImpossibleRequirements"
REASON_BUDGET: Final = "NodeBudgetExhausted"
REASON_PRICE: Final = "PriceUnknown"
REASON_INSTANCE_LOST: Final = "InstanceLost"
REASON_LAUNCH_TIMEOUT: Final = "LaunchTimedOut"
REASON_REGISTRATION_TIMEOUT: Final = "RegistrationTimedOut"
REASON_GPUS_MISSING: Final = "GpuNotReported"
REASON_REQUIREMENTS_DRIFTED: Final = "RequirementsDrifted"

# Events
EVENT_LAUNCHED: Final = "Launched"
EVENT_EXPIRED: Final = "Expired"
EVENT_ORPHAN: Final = "OrphanRemoved"
EVENT_DRY_RUN: Final = "DryRun"
