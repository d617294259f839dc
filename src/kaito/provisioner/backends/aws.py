# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""AWS: one EC2 instance for each claim, which joins an EKS cluster by itself (Amazon Linux 2023, nodeadm).

An attempt's client token makes RunInstances give the same instance however often it is asked for. Machines are found
again by their tags. What EKS tells of the cluster and which image it recommends is asked once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import boto3
import yaml
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from kaito.api import nodeclaims as names
from kaito.catalog.prices import Machine, machines
from kaito.kube.manifest import Manifest
from kaito.provisioner import errors
from kaito.provisioner.backends.threads import CONNECT_S, READ_S, Threads
from kaito.provisioner.instances import Fault, Instance, Order, State
from kaito.provisioner.offers import CAPACITY_TYPES, CapacityType, Offer, offer
from kaito.provisioner.settings import Settings

T = TypeVar("T")
IMAGE_PARAMETER: Final = "/aws/service/eks/optimized-ami/{version}/amazon-linux-2023/x86_64/nvidia/recommended/image_id"
"""The public parameter in which EKS names its image for NVIDIA GPUs (Amazon EKS user guide)."""
CLUSTER_TAG: Final = "kubernetes.io/cluster/{name}"
DEFAULT_DISK_GIB: Final = 200
PAGE: Final = 1000

CAPACITY: Final = frozenset({
    "InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientReservedInstanceCapacity",
    "InsufficientFreeAddressesInSubnet", "InsufficientCapacity", "Unsupported", "SpotMaxPriceTooLow",
    "UnfulfillableCapacity", "ReservationCapacityExceeded",
})  # fmt: skip
QUOTA: Final = frozenset({
    "VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded", "VolumeLimitExceeded",
    "MaxIOPSLimitExceeded", "PendingVerification",
})  # fmt: skip
UNAUTHORISED: Final = frozenset({
    "UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "AuthFailure", "InvalidClientTokenId",
    "UnrecognizedClientException", "ExpiredToken", "OptInRequired", "Blocked",
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted", "SignatureDoesNotMatch", "MissingAuthenticationToken",
})  # fmt: skip
THROTTLED: Final = frozenset({
    "RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequestsException", "EC2ThrottledException",
    "ResourceCountExceeded",
})  # fmt: skip
UNCLEAR: Final = frozenset({"InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable", "RequestExpired"})
STATES: Final[Mapping[str, State]] = {
    "pending": "pending", "running": "running", "shutting-down": "stopping", "stopping": "stopping",
    "stopped": "failed", "terminated": "gone",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a machine needs to know to join."""

    endpoint: str
    authority: str
    service_cidr: str
    version: str
    security_group: str


class AwsBackend:
    """A `kaito.provisioner.instances.Backend`."""

    name = "aws"
    list_lag_s = 60.0
    """EC2 is eventually consistent: a new instance may be missing from lists for a while."""
    busy_s = 15.0
    idle_s = 60.0
    calls_per_s = 2.0
    """RunInstances gives an account 2 requests a second (Amazon EC2 API throttling: resource token buckets)."""

    def __init__(self, settings: Settings) -> None:
        config = Config(connect_timeout=CONNECT_S, read_timeout=READ_S, retries={"total_max_attempts": 1})
        kinds: dict[str, Any] = {"region_name": settings.region, "config": config}
        if settings.endpoint:
            kinds["endpoint_url"] = settings.endpoint
        self._settings = settings
        session = boto3.session.Session()
        self._ec2, self._eks, self._ssm = (session.client(name, **kinds) for name in ("ec2", "eks", "ssm"))
        self._threads = Threads()
        self._cluster: Cluster | None = None
        self._image = settings.image
        self._subnets: dict[str, str] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> AwsBackend:
        """The backend for the settings; credentials are found by the SDK (EKS Pod Identity, IRSA, environment)."""
        return cls(settings)

    async def create(self, order: Order) -> Instance:
        """RunInstances."""
        return await self._threads.run(lambda: translated(lambda: self._create(order)))

    async def get(self, instance: Instance) -> Instance:
        """DescribeInstances of one."""
        found = await self._threads.run(lambda: translated(lambda: list(self._describe(InstanceIds=[instance.id]))))
        if not found:
            raise errors.NotFound(f"{instance.id} is not there")
        return found[0]

    async def list(self) -> Sequence[Instance]:
        """DescribeInstances of all that carry the cluster's tag, a page of a thousand at a time."""
        tag = {"Name": f"tag:{names.CLUSTER_LABEL}", "Values": [self._settings.cluster]}
        return await self._threads.run(lambda: translated(lambda: list(self._describe(Filters=[tag], MaxResults=PAGE))))

    async def delete(self, instance: Instance) -> None:
        """TerminateInstances."""
        await self._threads.run(lambda: translated(lambda: self._ec2.terminate_instances(InstanceIds=[instance.id])))

    async def instance_types(self) -> Sequence[Offer]:
        """The catalogue's types in the zones of the subnets that have them (DescribeInstanceTypeOfferings)."""
        return await self._threads.run(lambda: translated(self._offers))

    # On a thread

    def _create(self, order: Order) -> Instance:
        cluster = self._cluster = self._cluster or self._describe_cluster()
        self._image = self._image or self._recommended_image(cluster)
        subnet = self._subnets_by_zone().get(order.offer.zone)
        if subnet is None:
            raise errors.Rejected(f"no subnet is known in zone {order.offer.zone}")
        request = run_request(order, self._settings, cluster, image=self._image, subnet=subnet)
        answer = self._ec2.run_instances(**request)
        return instance_of(answer["Instances"][0])

    def _describe(self, **request: Any) -> Iterable[Instance]:
        while True:
            answer = self._ec2.describe_instances(**request)
            for reservation in answer["Reservations"]:
                yield from (instance_of(one) for one in reservation["Instances"])
            if not answer.get("NextToken"):
                return
            request = {**request, "NextToken": answer["NextToken"]}

    def _describe_cluster(self) -> Cluster:
        found = self._eks.describe_cluster(name=self._settings.cluster)["cluster"]
        network = found.get("kubernetesNetworkConfig") or {}
        return Cluster(
            endpoint=found["endpoint"],
            authority=found["certificateAuthority"]["data"],
            service_cidr=network.get("serviceIpv4Cidr") or network.get("serviceIpv6Cidr") or "172.20.0.0/16",
            version=found["version"],
            security_group=(found.get("resourcesVpcConfig") or {}).get("clusterSecurityGroupId") or "",
        )

    def _recommended_image(self, cluster: Cluster) -> str:
        name = IMAGE_PARAMETER.format(version=cluster.version)
        return str(self._ssm.get_parameter(Name=name)["Parameter"]["Value"])

    def _subnets_by_zone(self) -> dict[str, str]:
        if not self._subnets:
            tag = {"Name": "tag-key", "Values": [CLUSTER_TAG.format(name=self._settings.cluster)]}
            chosen = {"SubnetIds": list(self._settings.subnets)} if self._settings.subnets else {"Filters": [tag]}
            found = self._ec2.describe_subnets(**chosen)["Subnets"]
            found.sort(key=lambda subnet: subnet.get("AvailableIpAddressCount", 0))
            zones = self._settings.zones
            self._subnets = {
                one["AvailabilityZone"]: one["SubnetId"]
                for one in found
                if not zones or one["AvailabilityZone"] in zones
            }
        if not self._subnets:
            wanted = CLUSTER_TAG.format(name=self._settings.cluster)
            raise errors.Rejected(f"no subnet carries the tag {wanted}: add it, or name --subnets")
        return self._subnets

    def _offers(self) -> Sequence[Offer]:
        zones = list(self._subnets_by_zone())
        known = {machine.name: machine for machine in machines("aws")}
        filters = [{"Name": "location", "Values": zones}, {"Name": "instance-type", "Values": sorted(known)}]
        request: dict[str, Any] = {"LocationType": "availability-zone", "Filters": filters, "MaxResults": PAGE}
        found: list[Any] = []
        while True:
            answer = self._ec2.describe_instance_type_offerings(**request)
            found += answer["InstanceTypeOfferings"]
            if not answer.get("NextToken"):
                break
            request["NextToken"] = answer["NextToken"]
        return [
            self._offer(known[one["InstanceType"]], one["Location"], capacity_type)
            for one in found
            if one["InstanceType"] in known
            for capacity_type in CAPACITY_TYPES
        ]

    def _offer(self, machine: Machine, zone: str, capacity_type: CapacityType) -> Offer:
        labels = {
            "karpenter.k8s.aws/instance-gpu-count": str(machine.nvidia_gpus),
            names.REGION_LABEL: self._settings.region,
        }
        dollars = machine.dollars_per_hour
        return offer(machine.name, zone, capacity_type, dollars=dollars, gpus=machine.nvidia_gpus, labels=labels)


def run_request(order: Order, settings: Settings, cluster: Cluster, *, image: str, subnet: str) -> dict[str, Any]:
    """The parameters of RunInstances for an order."""
    groups = list(settings.security_groups) or ([cluster.security_group] if cluster.security_group else [])
    tags = {
        "Name": f"{settings.cluster}-{order.claim}",
        names.CLUSTER_LABEL: settings.cluster,
        names.CLAIM_LABEL: order.claim,
        names.CLAIM_UID_LABEL: order.claim_uid,
        CLUSTER_TAG.format(name=settings.cluster): "owned",
    }
    marked = [{"Key": key, "Value": value} for key, value in tags.items()]
    request: dict[str, Any] = {
        "ClientToken": token(order),
        "MinCount": 1,
        "MaxCount": 1,
        "ImageId": image,
        "InstanceType": order.offer.instance_type,
        "SubnetId": subnet,
        "SecurityGroupIds": groups,
        "IamInstanceProfile": {"Name": settings.instance_profile},
        "UserData": user_data(order, settings, cluster),
        "BlockDeviceMappings": [
            {
                "DeviceName": "/dev/xvda",
                "Ebs": {
                    "VolumeSize": max(order.disk_gib, DEFAULT_DISK_GIB), "VolumeType": "gp3", "Encrypted": True,
                    "DeleteOnTermination": True,
                },
            }
        ],
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
        "InstanceInitiatedShutdownBehavior": "terminate",
        "TagSpecifications": [{"ResourceType": kind, "Tags": marked} for kind in ("instance", "volume")],
    }  # fmt: skip
    if order.offer.capacity_type == "spot":
        request["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": {"SpotInstanceType": "one-time"}}
    return request


def token(order: Order) -> str:
    """The client token of an attempt: the same for every try of it, another one for the next."""
    return hashlib.sha256(f"{order.claim_uid}/{order.attempt}".encode()).hexdigest()


def user_data(order: Order, settings: Settings, cluster: Cluster) -> str:
    """What the machine is told at its first start: nodeadm's NodeConfig."""
    labels = {**order.labels, names.CLAIM_LABEL: order.claim, names.CLAIM_UID_LABEL: order.claim_uid}
    labels[names.CAPACITY_TYPE_LABEL] = order.offer.capacity_type
    flags = [f"--node-labels={','.join(f'{key}={value}' for key, value in sorted(labels.items()) if may_set(key))}"]
    config: Manifest = {
        "apiVersion": "node.eks.aws/v1alpha1",
        "kind": "NodeConfig",
        "spec": {
            "cluster": {
                "name": settings.cluster,
                "apiServerEndpoint": cluster.endpoint,
                "certificateAuthority": cluster.authority,
                "cidr": cluster.service_cidr,
            },
            "kubelet": {"config": {"registerWithTaints": [dict(taint) for taint in order.taints]}, "flags": flags},
        },
    }
    return str(yaml.safe_dump(config, sort_keys=False))


def may_set(label: str) -> bool:
    """Whether a kubelet may give itself the label (Kubernetes' NodeRestriction admission)."""
    domain, slash, _ = label.rpartition("/")
    if not slash or not any(domain == own or domain.endswith(f".{own}") for own in ("kubernetes.io", "k8s.io")):
        return True
    return domain in ("kubelet.kubernetes.io", "node.kubernetes.io") or domain.endswith(
        (".kubelet.kubernetes.io", ".node.kubernetes.io")
    )


def instance_of(found: Mapping[str, Any]) -> Instance:
    """An instance as EC2 describes it."""
    tags = {tag["Key"]: tag["Value"] for tag in found.get("Tags") or ()}
    zone = (found.get("Placement") or {}).get("AvailabilityZone") or ""
    state = STATES.get((found.get("State") or {}).get("Name", ""), "pending")
    reason = found.get("StateReason") or {}
    return Instance(
        id=found["InstanceId"],
        claim=tags.get(names.CLAIM_LABEL, ""),
        claim_uid=tags.get(names.CLAIM_UID_LABEL, ""),
        state=state,
        instance_type=found.get("InstanceType", ""),
        zone=zone,
        capacity_type="spot" if found.get("InstanceLifecycle") == "spot" else "on-demand",
        provider_id=f"aws:///{zone}/{found['InstanceId']}",
        image=found.get("ImageId", ""),
        note=str(reason.get("Message") or "") if state != "running" else "",
        fault=fault_of(str(reason.get("Code") or "")) if state == "failed" else "",
    )


def fault_of(code: str) -> Fault:
    """The kind of trouble that a state's reason names, such as Server.InsufficientInstanceCapacity."""
    plain = code.rpartition(".")[2]
    return "quota" if plain in QUOTA else "capacity" if plain in CAPACITY else "rejected" if plain else ""


def translated(call: Callable[[], T]) -> T:
    """What the call returns. Raises the cloud's errors as ours."""
    try:
        return call()
    except ClientError as error:
        raise error_of(error) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        text = f"{error}: give the pod's service account a role (EKS Pod Identity or IRSA)"
        raise errors.Unauthorised(text) from error
    except BotoCoreError as error:
        raise errors.Unclear(str(error)) from error


def error_of(error: ClientError) -> errors.CloudError:
    """Our error for one of AWS."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    text = f"{code}: {error.response.get('Error', {}).get('Message', '')}".strip(": ")
    if code in CAPACITY:
        return errors.OutOfCapacity(text)
    if code in QUOTA:
        return errors.QuotaExceeded(text)
    if code in THROTTLED or status == 429:
        return errors.Throttled(text)
    if code in UNAUTHORISED or status in (401, 403):
        return errors.Unauthorised(text)
    if code.endswith("NotFound") or code in ("ResourceNotFoundException", "ParameterNotFound"):
        return errors.NotFound(text) if code == "InvalidInstanceID.NotFound" else errors.Rejected(text)
    if code in UNCLEAR or status >= 500:
        return errors.Unclear(text)
    return errors.Rejected(text)
