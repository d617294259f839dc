# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes fills in where a manifest of a built-in kind says nothing.

`apply_defaults` works in place on a decoded manifest (see `decode.py`). Values that need the world (cluster addresses,
uids, service account tokens) are the registry's business. Source: k8s.io/kubernetes/pkg/apis/*/v1/defaults.go, 1.36.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any, Final

from kaito.kube.manifest import Manifest

Defaulter = Callable[[Manifest], None]


def apply_defaults(obj: Manifest) -> None:
    """Fill in the defaults of the object's kind, in place; nothing for kinds without any."""
    defaulter = _DEFAULTERS.get(obj.get("kind", ""))
    if defaulter is not None:
        defaulter(obj)


def _fill(target: Manifest, **values: Any) -> None:
    for name, value in values.items():
        target.setdefault(name, value)


def _map(target: Manifest, name: str) -> Manifest:
    """The inner object of that name, made when missing."""
    found: Manifest = target.setdefault(name, {})
    return found


def _items(target: Manifest, name: str) -> list[Manifest]:
    found: list[Manifest] = target.get(name) or []
    return found


def pod_spec(spec: Manifest) -> None:
    """Defaults of a pod's spec, wherever it stands."""
    host_network = spec.get("hostNetwork", False)
    _fill(
        spec,
        restartPolicy="Always",
        terminationGracePeriodSeconds=30,
        dnsPolicy="ClusterFirst",
        securityContext={},
        schedulerName="default-scheduler",
    )
    if "serviceAccountName" in spec:
        _fill(spec, serviceAccount=spec["serviceAccountName"])
    elif "serviceAccount" in spec:
        spec["serviceAccountName"] = spec["serviceAccount"]
    for name in ("initContainers", "containers", "ephemeralContainers"):
        for container in _items(spec, name):
            _container(container, host_network=host_network)
    for volume in _items(spec, "volumes"):
        _volume(volume)
    for constraint in _items(spec, "topologySpreadConstraints"):
        _fill(constraint, whenUnsatisfiable="DoNotSchedule")


def _container(container: Manifest, *, host_network: bool) -> None:
    _fill(
        container,
        imagePullPolicy=_pull_policy(container.get("image", "")),
        resources={},
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
    )
    _resources(container["resources"])
    for port in _items(container, "ports"):
        _fill(port, protocol="TCP")
        if host_network and "containerPort" in port:
            _fill(port, hostPort=port["containerPort"])
    for variable in _items(container, "env"):
        source = variable.get("valueFrom") or {}
        if "fieldRef" in source:
            _fill(source["fieldRef"], apiVersion="v1")
        if "resourceFieldRef" in source:
            _fill(source["resourceFieldRef"], divisor="0")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if name in container:
            _probe(container[name])
    for hook in (container.get("lifecycle") or {}).values():
        if isinstance(hook, dict) and "httpGet" in hook:
            _http_get(hook["httpGet"])


def _pull_policy(image: str) -> str:
    """Always for `latest` and for no tag at all, IfNotPresent otherwise."""
    name = image.partition("@")[0]
    tag = name.rpartition("/")[2].partition(":")[2]
    return "Always" if tag in ("", "latest") and "@" not in image else "IfNotPresent"


def _resources(resources: Manifest) -> None:
    for name, value in (resources.get("limits") or {}).items():
        _map(resources, "requests").setdefault(name, value)


def _probe(probe: Manifest) -> None:
    _fill(probe, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
    if "httpGet" in probe:
        _http_get(probe["httpGet"])
    if "grpc" in probe:
        _fill(probe["grpc"], service="")


def _http_get(action: Manifest) -> None:
    _fill(action, path="/", scheme="HTTP")


_VOLUME_SOURCES: Final[Mapping[str, Mapping[str, Any]]] = {
    "secret": {"defaultMode": 420},
    "configMap": {"defaultMode": 420},
    "downwardAPI": {"defaultMode": 420},
    "projected": {"defaultMode": 420},
    "hostPath": {"type": ""},
    "iscsi": {"iscsiInterface": "default"},
    "rbd": {"pool": "rbd", "user": "admin", "keyring": "/etc/ceph/keyring"},
    "azureDisk": {"cachingMode": "ReadWrite", "kind": "Shared", "fsType": "ext4", "readOnly": False},
}


def _volume(volume: Manifest) -> None:
    if set(volume) <= {"name"}:
        volume["emptyDir"] = {}
    for name, values in _VOLUME_SOURCES.items():
        if name in volume:
            _fill(volume[name], **values)
    for source in _items(volume.get("projected") or {}, "sources"):
        if "serviceAccountToken" in source:
            _fill(source["serviceAccountToken"], expirationSeconds=3600)
        for item in _items(source.get("downwardAPI") or {}, "items"):
            if "fieldRef" in item:
                _fill(item["fieldRef"], apiVersion="v1")
    for item in _items(volume.get("downwardAPI") or {}, "items"):
        if "fieldRef" in item:
            _fill(item["fieldRef"], apiVersion="v1")
    claim = (volume.get("ephemeral") or {}).get("volumeClaimTemplate")
    if claim:
        _fill(_map(claim, "spec"), volumeMode="Filesystem")


def _pod(obj: Manifest) -> None:
    spec = _map(obj, "spec")
    _fill(spec, enableServiceLinks=True)
    pod_spec(spec)
    _fill(_map(obj, "status"), phase="Pending")
    for condition in _items(obj["status"], "conditions"):
        _fill(condition, lastProbeTime=None, lastTransitionTime=None)


def _template(spec: Manifest) -> None:
    template = _map(spec, "template")
    _map(template, "metadata")
    pod_spec(_map(template, "spec"))


def _deployment(obj: Manifest) -> None:
    spec = _map(obj, "spec")
    _fill(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600)
    strategy = _map(spec, "strategy")
    _fill(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _fill(_map(strategy, "rollingUpdate"), maxUnavailable="25%", maxSurge="25%")
    _template(spec)
    _map(obj, "status")


def _replica_set(obj: Manifest) -> None:
    spec = _map(obj, "spec")
    _fill(spec, replicas=1)
    _template(spec)
    _fill(_map(obj, "status"), replicas=0)


def _stateful_set(obj: Manifest) -> None:
    spec = _map(obj, "spec")
    _fill(spec, podManagementPolicy="OrderedReady", replicas=1, revisionHistoryLimit=10, serviceName="")
    strategy = _map(spec, "updateStrategy")
    _fill(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _fill(_map(strategy, "rollingUpdate"), partition=0)
    _fill(_map(spec, "persistentVolumeClaimRetentionPolicy"), whenDeleted="Retain", whenScaled="Retain")
    for claim in _items(spec, "volumeClaimTemplates"):
        _fill(claim, apiVersion="v1", kind="PersistentVolumeClaim")
        _claim(claim)
    _template(spec)
    _fill(_map(obj, "status"), replicas=0, availableReplicas=0)


def _daemon_set(obj: Manifest) -> None:
    spec = _map(obj, "spec")
    _fill(spec, revisionHistoryLimit=10)
    strategy = _map(spec, "updateStrategy")
    _fill(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _fill(_map(strategy, "rollingUpdate"), maxUnavailable=1, maxSurge=0)
    _template(spec)
    _fill(
        _map(obj, "status"),
        currentNumberScheduled=0,
        numberMisscheduled=0,
        desiredNumberScheduled=0,
        numberReady=0,
    )


def _job_spec(spec: Manifest) -> None:
    if "completions" not in spec and "parallelism" not in spec:
        _fill(spec, completions=1, parallelism=1)
    _fill(spec, parallelism=1, completionMode="NonIndexed", suspend=False, podReplacementPolicy="TerminatingOrFailed")
    if "podFailurePolicy" in spec:
        spec["podReplacementPolicy"] = "Failed"
    if spec.get("backoffLimitPerIndex") is not None:
        _fill(spec, backoffLimit=2147483647)
    _fill(spec, backoffLimit=6, manualSelector=False)
    _template(spec)


def _job(obj: Manifest) -> None:
    _job_spec(_map(obj, "spec"))
    labels = obj["spec"]["template"]["metadata"].get("labels")
    if labels and not (obj.get("metadata") or {}).get("labels"):
        _map(obj, "metadata")["labels"] = dict(labels)
    _map(obj, "status")


def _limit_range(obj: Manifest) -> None:
    """What a container's limits leave out follows from the others."""
    for item in _map(obj, "spec").get("limits") or []:
        if isinstance(item, dict) and item.get("type") == "Container":
            for name, sources in (("default", ("max",)), ("defaultRequest", ("default", "min"))):
                for source in sources:
                    if item.get(source):
                        item[name] = {**item[source], **(item.get(name) or {})}


def _cron_job(obj: Manifest) -> None:
    spec = _map(obj, "spec")
    _fill(spec, concurrencyPolicy="Allow", suspend=False, successfulJobsHistoryLimit=3, failedJobsHistoryLimit=1)
    template = _map(spec, "jobTemplate")
    _map(template, "metadata")
    job = _map(template, "spec")
    _template(job)
    _map(obj, "status")


def _service(obj: Manifest) -> None:
    spec = _map(obj, "spec")
    _fill(spec, sessionAffinity="None", type="ClusterIP")
    if spec["sessionAffinity"] == "ClientIP":
        _fill(_map(_map(spec, "sessionAffinityConfig"), "clientIP"), timeoutSeconds=10800)
    for port in _items(spec, "ports"):
        _fill(port, protocol="TCP")
        if (port.get("targetPort") in (None, "", 0) and spec.get("clusterIP") != "None") or "targetPort" not in port:
            port["targetPort"] = port.get("port", 0)
    if spec["type"] != "ExternalName":
        _fill(spec, internalTrafficPolicy="Cluster")
    if spec["type"] in ("NodePort", "LoadBalancer"):
        _fill(spec, externalTrafficPolicy="Cluster")
    if spec["type"] == "LoadBalancer":
        _fill(spec, allocateLoadBalancerNodePorts=True)
    _map(_map(obj, "status"), "loadBalancer")


def _secret(obj: Manifest) -> None:
    """Also turns stringData into data, as Kubernetes does on writing."""
    _fill(obj, type="Opaque")
    plain = obj.pop("stringData", None)
    for name, text in (plain or {}).items():
        _map(obj, "data")[name] = base64.b64encode(text.encode()).decode()


def _namespace(obj: Manifest) -> None:
    _map(obj, "spec")
    _fill(_map(obj, "status"), phase="Active")
    name = (obj.get("metadata") or {}).get("name")
    if name:
        labels = obj["metadata"].get("labels") or {}
        obj["metadata"]["labels"] = {**labels, "kubernetes.io/metadata.name": name}


_NODE_INFO: Final = (
    "machineID",
    "systemUUID",
    "bootID",
    "kernelVersion",
    "osImage",
    "containerRuntimeVersion",
    "kubeletVersion",
    "kubeProxyVersion",
    "operatingSystem",
    "architecture",
)


def _node(obj: Manifest) -> None:
    _map(obj, "spec")
    status = _map(obj, "status")
    if "capacity" in status:
        _fill(status, allocatable=dict(status["capacity"]))
    _fill(_map(_map(status, "daemonEndpoints"), "kubeletEndpoint"), Port=0)
    _fill(_map(status, "nodeInfo"), **dict.fromkeys(_NODE_INFO, ""))


def _claim(obj: Manifest) -> None:
    spec = _map(obj, "spec")
    _fill(spec, volumeMode="Filesystem")
    _map(spec, "resources")
    _fill(_map(obj, "status"), phase="Pending")


def _volume_object(obj: Manifest) -> None:
    _fill(_map(obj, "spec"), persistentVolumeReclaimPolicy="Retain", volumeMode="Filesystem")
    if "hostPath" in obj["spec"]:
        _fill(obj["spec"]["hostPath"], type="")
    _fill(_map(obj, "status"), phase="Pending")


def _storage_class(obj: Manifest) -> None:
    _fill(obj, reclaimPolicy="Delete", volumeBindingMode="Immediate")


def _role(obj: Manifest) -> None:
    obj.setdefault("rules", None)


def _binding(obj: Manifest) -> None:
    _fill(_map(obj, "roleRef"), apiGroup="rbac.authorization.k8s.io")
    for subject in _items(obj, "subjects"):
        if subject.get("kind") in ("User", "Group"):
            _fill(subject, apiGroup="rbac.authorization.k8s.io")


def _webhooks(obj: Manifest) -> None:
    mutating = obj["kind"] == "MutatingWebhookConfiguration"
    for hook in _items(obj, "webhooks"):
        _fill(
            hook,
            failurePolicy="Fail",
            matchPolicy="Equivalent",
            namespaceSelector={},
            objectSelector={},
            timeoutSeconds=10,
        )
        if mutating:
            _fill(hook, reinvocationPolicy="Never")
        service = (hook.get("clientConfig") or {}).get("service")
        if service:
            _fill(service, port=443)
        for rule in _items(hook, "rules"):
            _fill(rule, scope="*")


def _priority_class(obj: Manifest) -> None:
    _fill(obj, preemptionPolicy="PreemptLowerPriority")


def _endpoint_slice(obj: Manifest) -> None:
    for port in _items(obj, "ports"):
        _fill(port, name="", protocol="TCP")
    for endpoint in _items(obj, "endpoints"):
        _map(endpoint, "conditions")


def _network_policy(obj: Manifest) -> None:
    spec = _map(obj, "spec")
    for rules in ("ingress", "egress"):
        for rule in _items(spec, rules):
            for port in _items(rule, "ports"):
                _fill(port, protocol="TCP")
    _fill(spec, policyTypes=["Ingress", "Egress"] if "egress" in spec else ["Ingress"])


def _replication_controller(obj: Manifest) -> None:
    spec = _map(obj, "spec")
    template = spec.get("template")
    if template is not None:
        pod_spec(_map(template, "spec"))
    labels = ((template or {}).get("metadata") or {}).get("labels")
    if labels:
        _fill(spec, selector=dict(labels))
        _fill(obj["metadata"], labels=dict(labels))
    _fill(spec, replicas=1)


def _autoscaler(obj: Manifest) -> None:
    target = {"type": "Utilization", "averageUtilization": 80}
    _fill(_map(obj, "spec"), minReplicas=1)
    if not obj["spec"].get("metrics"):
        obj["spec"]["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]


_DEFAULTERS: Final[Mapping[str, Defaulter]] = {
    "Pod": _pod,
    "ReplicationController": _replication_controller,
    "PodTemplate": _template,
    "Deployment": _deployment,
    "ReplicaSet": _replica_set,
    "StatefulSet": _stateful_set,
    "DaemonSet": _daemon_set,
    "Job": _job,
    "CronJob": _cron_job,
    "LimitRange": _limit_range,
    "Service": _service,
    "Secret": _secret,
    "Namespace": _namespace,
    "Node": _node,
    "PersistentVolumeClaim": _claim,
    "PersistentVolume": _volume_object,
    "StorageClass": _storage_class,
    "Role": _role,
    "ClusterRole": _role,
    "RoleBinding": _binding,
    "ClusterRoleBinding": _binding,
    "ValidatingWebhookConfiguration": _webhooks,
    "MutatingWebhookConfiguration": _webhooks,
    "PriorityClass": _priority_class,
    "EndpointSlice": _endpoint_slice,
    "NetworkPolicy": _network_policy,
    "HorizontalPodAutoscaler": _autoscaler,
}
