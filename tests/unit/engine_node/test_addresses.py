# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Engines on one machine keep out of each other's addresses."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from kaito.engine.node.addresses import POD_NETWORK, SERVICE_NETWORK, pod_address, pod_network, service_network


def test_a_data_folder_keeps_its_addresses() -> None:
    assert pod_network(Path("/home/a/kaito"), 1000) == pod_network(Path("/home/a/../a/kaito"), 1000)
    assert pod_network(Path("/home/a/kaito"), 1000).subnet_of(POD_NETWORK)
    assert service_network(Path("/home/a/kaito"), 1000).subnet_of(SERVICE_NETWORK)


def test_folders_and_users_spread_over_many_networks() -> None:
    places = [(Path(f"/srv/{number}"), 1000) for number in range(40)]
    users = [(Path("/srv/shared"), number) for number in range(40)]
    for find in (pod_network, service_network):
        assert len({find(*place) for place in places}) > 30
        assert len({find(*user) for user in users}) > 30


def test_pods_and_services_never_meet() -> None:
    assert not POD_NETWORK.overlaps(SERVICE_NETWORK)
    assert IPv4Address("127.0.0.1") not in POD_NETWORK


def test_a_pods_address_follows_from_its_uid_unless_that_is_taken() -> None:
    network = IPv4Network("127.64.64.0/18")
    first = pod_address("uid", network, ())
    assert pod_address("uid", network, ()) == first
    second = pod_address("uid", network, {first})
    assert second != first
    assert IPv4Address(first) in network and IPv4Address(second) in network


def test_even_a_full_network_gives_its_last_address() -> None:
    network = IPv4Network("127.64.0.0/29")
    taken: set[str] = set()
    for number in range(7):
        taken.add(pod_address(str(number), network, taken))
    assert len(taken) == 7 and "127.64.0.0" not in taken
