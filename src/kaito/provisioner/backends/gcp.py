# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""GKE: one node pool of one machine for each claim, under the claim's name, in the zone of the offer.

A pool's name is taken only once, so asking twice finds the same one. Whether it comes is told later: by the pool's
status, or by the operation that makes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from google.api_core import exceptions as api
from google.auth import default
from google.auth.credentials import Credentials
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.cloud import container_v1
from google.cloud.container_v1.services.cluster_manager.transports.rest import ClusterManagerRestTransport
from requests.exceptions import RequestException

from kaito.api import nodeclaims as names
from kaito.catalog.prices import machines
from kaito.provisioner import errors
from kaito.provisioner.backends.pools import claim_of, pool_labels, pool_name
from kaito.provisioner.backends.threads import READ_S, Threads
from kaito.provisioner.instances import Fault, Instance, Order, State
from kaito.provisioner.offers import CAPACITY_TYPES, Offer, offer
from kaito.provisioner.settings import Settings

T = TypeVar("T")
NAME: Final = r"[a-z]([a-z0-9-]*[a-z0-9])?"
LONGEST_NAME: Final = 39
DEFAULT_DISK_GIB: Final = 200
BUSY_S: Final = 15.0
SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
POOL_LABEL: Final = "cloud.google.com/gke-nodepool"
STATES: Final[Mapping[str, State]] = {
    "RUNNING": "running", "RUNNING_WITH_ERROR": "running", "RECONCILING": "running", "STOPPING": "stopping",
    "ERROR": "failed",
}  # fmt: skip
ACCELERATORS: Final = (
    ("g2-", "nvidia-l4"), ("a2-highgpu", "nvidia-tesla-a100"), ("a2-megagpu", "nvidia-tesla-a100"),
    ("a2-ultragpu", "nvidia-a100-80gb"), ("a3-highgpu", "nvidia-h100-80gb"), ("a3-edgegpu", "nvidia-h100-80gb"),
    ("a3-megagpu", "nvidia-h100-mega-80gb"), ("a3-ultragpu", "nvidia-h200-141gb"), ("a4-highgpu", "nvidia-b200"),
)  # fmt: skip
"""GKE's name of the accelerator, by the beginning of the machine type (GKE documentation, "GPU machine types")."""
EFFECTS: Final = {"NoSchedule": "NO_SCHEDULE", "PreferNoSchedule": "PREFER_NO_SCHEDULE", "NoExecute": "NO_EXECUTE"}
CAPACITY: Final = re.compile(
    r"STOCKOUT|POOL_EXHAUSTED|does not have enough resources|resource pool exhausted", re.IGNORECASE
)
QUOTA: Final = re.compile(r"quota", re.IGNORECASE)
RATE: Final = re.compile(r"per minute|rate ?limit", re.IGNORECASE)


class GcpBackend:
    """A `kaito.provisioner.instances.Backend`."""

    name = "gcp"
    list_lag_s = 0.0
    busy_s = 15.0
    idle_s = 60.0
    calls_per_s = 1.0
    """The GKE API takes 60 changes of pools in a minute from a project, and 3,000 reads."""

    def __init__(self, settings: Settings, credentials: Credentials | None = None) -> None:
        """Without credentials the SDK looks for some at the first call."""
        self._settings, self._credentials = settings, credentials
        self._opened: container_v1.ClusterManagerClient | None = None
        self._threads = Threads()
        self._operations: dict[str, str] = {}
        self._cluster = f"projects/{settings.project}/locations/{settings.region}/clusters/{settings.cluster}"

    @classmethod
    def from_settings(cls, settings: Settings) -> GcpBackend:
        """The backend for the settings; the identity is found by the SDK (Workload Identity Federation for GKE)."""
        return cls(settings)

    async def create(self, order: Order) -> Instance:
        """nodePools.create."""
        return await self._threads.run(lambda: translated(lambda: self._create(order)))

    async def get(self, instance: Instance) -> Instance:
        """nodePools.get."""
        found = await self._threads.run(lambda: translated(lambda: self._get(instance.id), is_one=True))
        return self._instance(found) or instance

    async def list(self) -> Sequence[Instance]:
        """nodePools.list: one call for all; and operations.get for each pool that failed without a word."""
        return await self._threads.run(lambda: translated(self._list))

    async def delete(self, instance: Instance) -> None:
        """nodePools.delete."""
        name = f"{self._cluster}/nodePools/{instance.id}"
        await self._threads.run(
            lambda: translated(
                lambda: self._client.delete_node_pool(name=name, retry=None, timeout=READ_S), is_one=True
            )
        )

    async def instance_types(self) -> Sequence[Offer]:
        """The catalogue's types, in the zones of the settings."""
        return [
            offer(
                machine.name, zone, capacity_type, dollars=machine.dollars_per_hour, gpus=machine.nvidia_gpus,
                labels={"cloud.google.com/gke-spot": "true"} if capacity_type == "spot" else {},
            )
            for machine in machines("gcp")
            for zone in self._settings.zones or ("",)
            for capacity_type in CAPACITY_TYPES
        ]  # fmt: skip

    # On a thread

    @property
    def _client(self) -> container_v1.ClusterManagerClient:
        if self._opened is None:
            credentials = self._credentials or default(scopes=[SCOPE])[0]
            address = urlsplit(self._settings.endpoint or "https://container.googleapis.com")
            transport = ClusterManagerRestTransport(
                host=address.netloc, url_scheme=address.scheme or "https", credentials=credentials
            )
            self._opened = container_v1.ClusterManagerClient(transport=transport)
        return self._opened

    def _create(self, order: Order) -> Instance:
        name = pool_name(order.claim, NAME, LONGEST_NAME)
        try:
            operation = self._client.create_node_pool(
                parent=self._cluster, node_pool=pool(order, name), retry=None, timeout=READ_S
            )
        except (api.AlreadyExists, api.Conflict) as error:
            found = self._get(name)
            if dict(found.config.labels).get(names.CLAIM_UID_LABEL) != order.claim_uid:
                text = f"node pool {name} was not made for this claim: delete the pool, or give the claim another name"
                raise errors.NameTaken(text) from error
            return self._instance(found) or instance_of_order(order, name)
        self._operations[name] = operation.name
        return instance_of_order(order, name)

    def _get(self, name: str) -> Any:
        return self._client.get_node_pool(name=f"{self._cluster}/nodePools/{name}", retry=None, timeout=READ_S)

    def _list(self) -> Sequence[Instance]:
        answer = self._client.list_node_pools(parent=self._cluster, retry=None, timeout=READ_S)
        found = [self._instance(one) for one in answer.node_pools]
        instances = [one for one in found if one is not None]
        there = {one.id for one in instances if one.state == "pending"}
        self._operations = {name: operation for name, operation in self._operations.items() if name in there}
        return instances

    def _instance(self, found: Any) -> Instance | None:
        """The machine of a pool; None for a pool that no provisioner has made for a claim."""
        claim = claim_of(dict(found.config.labels), found.name)
        if claim is None:
            return None
        state = STATES.get(found.status.name, "pending")
        text = self._why(found) if state == "failed" else ""
        return Instance(
            id=found.name,
            claim=claim[0],
            claim_uid=claim[1],
            state=state,
            instance_type=found.config.machine_type,
            zone=next(iter(found.locations), "") if self._settings.zones else "",
            capacity_type="spot" if found.config.spot else "on-demand",
            image=found.version,
            note=text,
            fault=fault_of(text) if state == "failed" else "",
            node_labels={POOL_LABEL: found.name},
        )

    def _why(self, found: Any) -> str:
        """What the pool says of its failure, else what its operation says."""
        told = [f"{condition.code.name}: {condition.message}" for condition in found.conditions if condition.message]
        if told or found.status_message:
            return "; ".join(told) or str(found.status_message)
        operation = self._operations.get(found.name)
        if operation is None:
            return "the pool's status is ERROR: see its operations"
        where = self._cluster.rpartition("/clusters/")[0]
        answer = self._client.get_operation(name=f"{where}/operations/{operation}", retry=None, timeout=READ_S)
        return str(answer.error.message or answer.status_message or "the operation failed")


def pool(order: Order, name: str) -> container_v1.NodePool:
    """The pool of an order."""
    kind = next((kind for start, kind in ACCELERATORS if order.offer.instance_type.startswith(start)), "")
    accelerators = [
        container_v1.AcceleratorConfig(
            accelerator_count=order.offer.gpus,
            accelerator_type=kind,
            gpu_driver_installation_config={"gpu_driver_version": "DEFAULT"},
        )
    ]
    return container_v1.NodePool(
        name=name,
        initial_node_count=1,
        locations=[order.offer.zone] if order.offer.zone else [],
        config=container_v1.NodeConfig(
            machine_type=order.offer.instance_type,
            disk_size_gb=order.disk_gib or DEFAULT_DISK_GIB,
            spot=order.offer.capacity_type == "spot",
            labels=pool_labels(order),
            taints=[
                container_v1.NodeTaint(key=one["key"], value=one.get("value") or "", effect=EFFECTS[one["effect"]])
                for one in order.taints
            ],
            accelerators=accelerators if kind and order.offer.gpus else [],
            oauth_scopes=[SCOPE],
        ),
        management={"auto_repair": True, "auto_upgrade": True},
    )


def instance_of_order(order: Order, name: str) -> Instance:
    """What has just been asked for."""
    return Instance(
        id=name,
        claim=order.claim,
        claim_uid=order.claim_uid,
        state="pending",
        instance_type=order.offer.instance_type,
        zone=order.offer.zone,
        capacity_type=order.offer.capacity_type,
        node_labels={POOL_LABEL: name},
    )


def fault_of(text: str) -> Fault:
    """The kind of trouble that a failure's text tells of."""
    return "capacity" if CAPACITY.search(text) else "quota" if QUOTA.search(text) else "rejected"


def translated(call: Callable[[], T], *, is_one: bool = False) -> T:
    """What the call returns. Raises the cloud's errors as ours; with `is_one` 404 means that the pool is gone."""
    try:
        return call()
    except api.GoogleAPICallError as error:
        raise error_of(error, is_one=is_one) from error
    except (GoogleAuthError, DefaultCredentialsError) as error:
        raise errors.Unauthorised(str(error)) from error
    except (api.RetryError, RequestException) as error:
        raise errors.Unclear(str(error)) from error


def error_of(error: api.GoogleAPICallError, *, is_one: bool) -> errors.CloudError:
    """Our error for one of Google Cloud."""
    text, status = str(error.message), int(error.code or 0)
    if status == 404:
        return errors.NotFound(text) if is_one else errors.Rejected(text)
    if CAPACITY.search(text):
        return errors.OutOfCapacity(text)
    if status == 429 and (RATE.search(text) or not QUOTA.search(text)):
        after = error.response.headers.get("Retry-After", "") if error.response is not None else ""
        return errors.Throttled(text, float(after) if str(after).isdigit() else None)
    if QUOTA.search(text) and status in (400, 403, 429):
        return errors.QuotaExceeded(text)
    if status in (401, 403):
        return errors.Unauthorised(text)
    if "incompatible operation" in text.lower() or (status == 400 and "FAILED_PRECONDITION" in str(error)):
        return errors.Throttled(text, BUSY_S)
    if status >= 500 or status in (0, 408):
        return errors.Unclear(text)
    return errors.Rejected(text)
