# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Cluster addresses and node ports of Services: handed out, checked, and taken back.

What is taken is what stored Services hold; an index of it follows the store.
"""

from __future__ import annotations

import ipaddress
import random

from kaito.engine.schema.field import FieldError, invalid
from kaito.engine.storage.events import Event, Record
from kaito.engine.storage.store import Store
from kaito.engine.wire.codec import decode
from kaito.engine.wire.context import WriteContext
from kaito.engine.wire.status import StatusError
from kaito.engine.wire.status import invalid as invalid_object
from kaito.kube.manifest import Manifest

COLLECTION = "/services"
NODE_PORTS = range(30000, 32768)


class Addresses:
    """Gives Services their addresses and ports."""

    def __init__(self, store: Store, network: str) -> None:
        self._network = ipaddress.IPv4Network(network)
        self._addresses: dict[str, tuple[str, str]] = {}
        self._ports: dict[int, tuple[str, str]] = {}
        for record in store.scan(COLLECTION):
            self._note(record)
        store.listen(self._changed)

    def _changed(self, event: Event) -> None:
        if event.record.collection != COLLECTION:
            return
        if event.previous is not None:
            self._forget((event.record.namespace, event.record.name))
        if event.type != "DELETED":
            self._note(event.record)

    def _note(self, record: Record) -> None:
        owner, spec = (record.namespace, record.name), decode(record.value)["spec"]
        for address in spec.get("clusterIPs") or []:
            if address != "None":
                self._addresses[address] = owner
        for port in spec.get("ports") or []:
            if port.get("nodePort"):
                self._ports[port["nodePort"]] = owner

    def _forget(self, owner: tuple[str, str]) -> None:
        self._addresses = {key: who for key, who in self._addresses.items() if who != owner}
        self._ports = {key: who for key, who in self._ports.items() if who != owner}

    def allocate(self, obj: Manifest, live: Manifest | None, ctx: WriteContext) -> Manifest:
        """The Service with its addresses and ports. Raises StatusError 422 when a wanted one is taken."""
        spec, meta = dict(obj["spec"]), obj["metadata"]
        owner = (meta["namespace"], meta["name"])
        old = (live or {}).get("spec") or {}
        errors: list[FieldError] = []
        if spec.get("type") == "ExternalName":
            return {**obj, "spec": spec}
        self._allocate_address(spec, old, owner, errors)
        if spec.get("type") in ("NodePort", "LoadBalancer"):
            spec["ports"] = self._with_node_ports(spec.get("ports") or [], old, owner, errors)
        if errors:
            raise invalid_object("", "Service", meta["name"], errors)
        return {**obj, "spec": spec}

    def _allocate_address(
        self, spec: Manifest, old: Manifest, owner: tuple[str, str], errors: list[FieldError]
    ) -> None:
        wanted = spec.get("clusterIP") or (spec.get("clusterIPs") or [""])[0] or old.get("clusterIP", "")
        if not wanted:
            wanted = self._free_address()
        elif wanted != "None" and wanted != old.get("clusterIP"):
            problem = self._address_problem(wanted, owner)
            if problem:
                text = f"failed to allocate IP {wanted}: {problem}"
                errors.append(invalid("spec.clusterIPs", [wanted], text))
        spec["clusterIP"], spec["clusterIPs"] = wanted, [wanted]
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")

    def _address_problem(self, wanted: str, owner: tuple[str, str]) -> str:
        try:
            inside = ipaddress.IPv4Address(wanted) in self._network
        except ValueError:
            return "not a valid IP"
        if not inside:
            return f"the provided IP is not in the valid range. The range of valid IPs is {self._network}"
        return "provided IP is already allocated" if self._addresses.get(wanted, owner) != owner else ""

    def _free_address(self) -> str:
        size = self._network.num_addresses
        for _ in range(64):
            address = str(self._network[random.randrange(16, size - 1)])
            if address not in self._addresses:
                return address
        for index in range(1, size - 1):
            if str(self._network[index]) not in self._addresses:
                return str(self._network[index])
        raise StatusError(500, "InternalError", f"no address is free in {self._network}")

    def _with_node_ports(
        self, ports: list[Manifest], old: Manifest, owner: tuple[str, str], errors: list[FieldError]
    ) -> list[Manifest]:
        before = {(p.get("name", ""), p["port"]): p.get("nodePort") for p in old.get("ports") or []}
        mine = {p.get("nodePort") for p in ports if p.get("nodePort")}
        result = []
        for index, port in enumerate(ports):
            wanted = port.get("nodePort") or before.get((port.get("name", ""), port["port"]))
            if not wanted:
                wanted = self._free_port(mine)
                mine.add(wanted)
            elif self._ports.get(wanted, owner) != owner:
                errors.append(invalid(f"spec.ports[{index}].nodePort", wanted, "provided port is already allocated"))
            elif wanted not in NODE_PORTS:
                valid = f"{NODE_PORTS[0]}-{NODE_PORTS[-1]}"
                text = f"provided port is not in the valid range. The range of valid ports is {valid}"
                errors.append(invalid(f"spec.ports[{index}].nodePort", wanted, text))
            result.append({**port, "nodePort": wanted})
        return result

    def _free_port(self, mine: set[int | None]) -> int:
        free = [port for port in NODE_PORTS if port not in self._ports and port not in mine]
        if not free:
            raise StatusError(500, "InternalError", "no node port is free")
        return random.choice(free)
