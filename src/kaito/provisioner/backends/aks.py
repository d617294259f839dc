# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""AKS: one agent pool of one machine for each claim, under the claim's name.

A pool is asked for on the condition that there is none of the name, so asking twice finds the same one and never
changes somebody else's. Whether it comes is told later: by the pool's state, and by its long-running operation.
AKS keeps a pool's taints on its nodes, so the taint of a node that has not registered is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from azure.core import MatchConditions
from azure.core.credentials import TokenCredential
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.identity import DefaultAzureCredential
from azure.mgmt.containerservice import ContainerServiceClient
from azure.mgmt.containerservice.models import AgentPool
from azure.mgmt.core.polling.arm_polling import ARMPolling

from kaito.api import nodeclaims as names
from kaito.catalog.prices import machines
from kaito.provisioner import errors
from kaito.provisioner.backends.pools import claim_of, pool_labels, pool_name
from kaito.provisioner.backends.threads import CONNECT_S, READ_S, Threads
from kaito.provisioner.instances import Fault, Instance, Order, State
from kaito.provisioner.offers import CAPACITY_TYPES, Offer, offer
from kaito.provisioner.settings import Settings

T = TypeVar("T")
NAME: Final = r"[a-z][a-z0-9]*"
LONGEST_NAME: Final = 12
DEFAULT_DISK_GIB: Final = 200
OS_SKUS: Final = {"azurelinux": "AzureLinux"}
BUSY_S: Final = 20.0
"""When to come back while another operation on the cluster is under way."""
STATES: Final[Mapping[str, State]] = {
    "succeeded": "running", "failed": "failed", "canceled": "failed", "deleting": "stopping",
}  # fmt: skip
CAPACITY: Final = re.compile(
    r"AllocationFailed|Overconstrained|SkuNotAvailable|SKUNotAvailable|not available in (location|zone)|capacity",
    re.IGNORECASE,
)
QUOTA: Final = re.compile(r"quota|exceeding approved", re.IGNORECASE)


class SteppedPolling(ARMPolling):
    """A long-running operation that is looked at when we like, not by a thread that waits for it."""

    def run(self) -> None:
        """Nothing in the background."""


class AksBackend:
    """A `kaito.provisioner.instances.Backend`."""

    name = "aks"
    list_lag_s = 0.0
    busy_s = 15.0
    idle_s = 60.0
    calls_per_s = 2.0
    """AKS takes about one change of pools a second (bucket of 100, refilled at 1 a second) and twice as many reads."""

    def __init__(self, settings: Settings, credential: TokenCredential, **transport: Any) -> None:
        """`transport`: options of the SDK's HTTP client, such as connection_verify."""
        options: dict[str, Any] = {"base_url": settings.endpoint} if settings.endpoint else {}
        self._settings = settings
        self._client = ContainerServiceClient(
            credential, settings.subscription, retry_total=0, connection_timeout=CONNECT_S, read_timeout=READ_S,
            **options, **transport,
        )  # fmt: skip
        self._threads = Threads()
        self._operations: dict[str, SteppedPolling] = {}
        self._where = (settings.resource_group, settings.cluster)

    @classmethod
    def from_settings(cls, settings: Settings) -> AksBackend:
        """The backend for the settings; the identity is found by the SDK (workload identity on AKS)."""
        return cls(settings, DefaultAzureCredential(exclude_interactive_browser_credential=True))

    async def create(self, order: Order) -> Instance:
        """PUT the pool, if there is none of its name."""
        return await self._threads.run(lambda: translated(lambda: self._create(order)))

    async def get(self, instance: Instance) -> Instance:
        """GET one pool."""
        found = await self._threads.run(
            lambda: translated(lambda: self._client.agent_pools.get(*self._where, instance.id), is_one=True)
        )
        return self._instance(found) or instance

    async def list(self) -> Sequence[Instance]:
        """GET the list of pools: one call for all; and the operation of each that has failed, once."""
        return await self._threads.run(lambda: translated(self._list))

    async def delete(self, instance: Instance) -> None:
        """DELETE the pool."""
        await self._threads.run(
            lambda: translated(
                lambda: self._client.agent_pools.begin_delete(*self._where, instance.id, polling=False), is_one=True
            )
        )

    async def instance_types(self) -> Sequence[Offer]:
        """The catalogue's types, in the zones of the settings."""
        return [
            offer(
                machine.name, zone, capacity_type, dollars=machine.dollars_per_hour, gpus=machine.nvidia_gpus,
                labels={
                    "karpenter.azure.com/sku-name": machine.name,
                    **({"kubernetes.azure.com/scalesetpriority": "spot"} if capacity_type == "spot" else {}),
                },
            )
            for machine in machines("azure")
            for zone in self._settings.zones or ("",)
            for capacity_type in CAPACITY_TYPES
        ]  # fmt: skip

    # On a thread

    def _create(self, order: Order) -> Instance:
        name = pool_name(order.claim, NAME, LONGEST_NAME)
        method = SteppedPolling()
        body = AgentPool(pool(order))
        try:
            self._client.agent_pools.begin_create_or_update(
                *self._where, name, body, etag="*", match_condition=MatchConditions.IfMissing, polling=method
            )
        except HttpResponseError as error:
            if error.status_code not in (409, 412):
                raise
            found = self._existing(name, error)
            labels = dict((found.properties.node_labels if found.properties else None) or {})
            if labels.get(names.CLAIM_UID_LABEL) != order.claim_uid:
                text = f"agent pool {name} was not made for this claim: delete the pool, or give the claim another name"
                raise errors.NameTaken(text) from error
            return self._instance(found) or instance_of_order(order, name)
        self._operations[name] = method
        return instance_of_order(order, name)

    def _existing(self, name: str, error: HttpResponseError) -> Any:
        """The pool that is in the way; what the first error says when there is none."""
        try:
            return self._client.agent_pools.get(*self._where, name)
        except HttpResponseError as second:
            if second.status_code == 404:
                raise error from None
            raise

    def _list(self) -> Sequence[Instance]:
        found = [self._instance(one) for one in self._client.agent_pools.list(*self._where)]
        instances = [one for one in found if one is not None]
        there = {one.id for one in instances}
        for name in [name for name in self._operations if name not in there]:
            del self._operations[name]
        return instances

    def _instance(self, found: Any) -> Instance | None:
        """The machine of a pool; None for a pool that no provisioner has made for a claim."""
        properties = found.properties
        labels = dict((properties.node_labels if properties else None) or {})
        claim = claim_of(labels, found.name)
        if claim is None:
            return None
        state = STATES.get(str(properties.provisioning_state or "").lower(), "pending")
        code, text = self._why(found.name, properties) if state == "failed" else ("", "")
        if state == "running":
            self._operations.pop(found.name, None)
        return Instance(
            id=found.name,
            claim=claim[0],
            claim_uid=claim[1],
            state=state,
            instance_type=properties.vm_size or "",
            zone=next(iter(properties.availability_zones or ()), ""),
            capacity_type="spot" if properties.scale_set_priority == "Spot" else "on-demand",
            image=properties.node_image_version or "",
            note=text,
            fault=fault_of(f"{code} {text}") if state == "failed" else "",
            node_labels={"kubernetes.azure.com/agentpool": found.name},
        )

    def _why(self, name: str, properties: Any) -> tuple[str, str]:
        """Code and text of a pool's failure: what the pool says, else what its operation says."""
        told = properties.status.provisioning_error if properties.status else None
        if told is not None and told.message:
            return told.code or "", f"{told.code}: {told.message}" if told.code else told.message
        operation = self._operations.get(name)
        if operation is None:
            return "", "the pool's provisioning state is Failed: see its activity log"
        operation.update_status()
        failed = (operation._pipeline_response.http_response.json() or {}).get("error") or {}
        return str(failed.get("code") or ""), f"{failed.get('code')}: {failed.get('message')}"


def pool(order: Order) -> dict[str, Any]:
    """The body of the request for an order's pool."""
    is_spot = order.offer.capacity_type == "spot"
    properties = {
        "count": 1,
        "vmSize": order.offer.instance_type,
        "mode": "User",
        "type": "VirtualMachineScaleSets",
        "osType": "Linux",
        "osSKU": OS_SKUS.get(order.image_family, "Ubuntu"),
        "osDiskSizeGB": order.disk_gib or DEFAULT_DISK_GIB,
        "nodeLabels": pool_labels(order),
        "nodeTaints": [taint_text(taint) for taint in order.taints if taint["key"] != names.UNREGISTERED_TAINT],
        **({"availabilityZones": [order.offer.zone]} if order.offer.zone else {}),
        **({"scaleSetPriority": "Spot", "scaleSetEvictionPolicy": "Delete", "spotMaxPrice": -1} if is_spot else {}),
    }
    return {"properties": properties}


def taint_text(taint: Mapping[str, Any]) -> str:
    """A taint as AKS writes it."""
    return f"{taint['key']}={taint.get('value') or ''}:{taint['effect']}"


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
        node_labels={"kubernetes.azure.com/agentpool": name},
    )


def fault_of(text: str) -> Fault:
    """The kind of trouble that a failure's code and text tell of."""
    return "quota" if QUOTA.search(text) else "capacity" if CAPACITY.search(text) else "rejected"


def translated(call: Callable[[], T], *, is_one: bool = False) -> T:
    """What the call returns. Raises the cloud's errors as ours; with `is_one` 404 means that the pool is gone."""
    try:
        return call()
    except ClientAuthenticationError as error:
        raise errors.Unauthorised(_short(error)) from error
    except HttpResponseError as error:
        raise error_of(error, is_one=is_one) from error
    except (ServiceRequestError, ServiceResponseError) as error:
        raise errors.Unclear(_short(error)) from error
    except AzureError as error:
        raise errors.Unclear(_short(error)) from error


def error_of(error: HttpResponseError, *, is_one: bool) -> errors.CloudError:
    """Our error for one of Azure."""
    code = str(error.error.code if error.error is not None else "")
    message = str(error.error.message if error.error is not None else error.message)
    text, status = f"{code}: {message}" if code else message, error.status_code or 0
    if status == 429:
        after = getattr(error.response, "headers", {}).get("Retry-After", "")
        return errors.Throttled(text, float(after) if str(after).isdigit() else None)
    if status in (401, 403):
        return errors.Unauthorised(text)
    if status == 404 and is_one:
        return errors.NotFound(text)
    if status == 409:
        return errors.QuotaExceeded(text) if QUOTA.search(text) else errors.Throttled(text, BUSY_S)
    if status >= 500 or status == 408:
        return errors.Unclear(text)
    kinds = {"quota": errors.QuotaExceeded, "capacity": errors.OutOfCapacity}
    return kinds.get(fault_of(text), errors.Rejected)(text)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
