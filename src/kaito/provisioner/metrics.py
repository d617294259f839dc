# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What /metrics shows, in Prometheus' text format: machines by state, calls to the cloud, and the controllers' work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from kaito.kube.controller import Stats
from kaito.provisioner.cloud import Cloud

_CONTROLLER = (
    ("reconciles_total", "counter", "Claims that were looked at"),
    ("errors_total", "counter", "of which ended in an error"),
    ("writes_total", "counter", "Requests to the API server that may change something"),
    ("queue_depth", "gauge", "Claims that wait"),
)


def exposition(stats: Mapping[str, Stats], cloud: Cloud) -> str:
    """The page."""
    return "\n".join([*_machines(cloud), *_calls(cloud), *_controllers(stats)]) + "\n"


def _machines(cloud: Cloud) -> Iterable[str]:
    yield from _head("machines", "gauge", "Machines by state")
    for state, count in sorted(Counter(instance.state for instance in cloud.fleet.instances()).items()):
        yield f'kaito_provisioner_machines{{state="{state}"}} {count}'


def _calls(cloud: Cloud) -> Iterable[str]:
    yield from _head("cloud_calls_total", "counter", "Calls to the cloud, and those of them that failed, by error")
    for what, count in sorted(cloud.counts.items()):
        call, _, error = what.partition(" ")
        yield f'kaito_provisioner_cloud_calls_total{{call="{call}",error="{error}"}} {count}'


def _controllers(stats: Mapping[str, Stats]) -> Iterable[str]:
    for name, kind, text in _CONTROLLER:
        yield from _head(name, kind, text)
        for controller, found in sorted(stats.items()):
            value = getattr(found, name.removesuffix("_total"))
            yield f'kaito_provisioner_{name}{{controller="{controller}"}} {value}'


def _head(name: str, kind: str, text: str) -> Iterable[str]:
    return f"# HELP kaito_provisioner_{name} {text}.", f"# TYPE kaito_provisioner_{name} {kind}"
