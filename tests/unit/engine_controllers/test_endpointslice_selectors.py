# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which Services a change of a pod wakes."""

from __future__ import annotations

from kaito.engine.controllers.endpointslice import Selectors
from kaito.kube.manifest import Key, Manifest


def service(name: str, namespace: str = "default", **selector: str) -> Manifest:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"selector": selector} if selector else {}}


def pod(name: str, **labels: str) -> Manifest:
    return {"metadata": {"name": name, "namespace": "default", "labels": labels}, "spec": {}}


def woken(selectors: Selectors, changed: Manifest) -> set[str]:
    found = selectors.keys(changed)
    assert len(found) == len(set(found))
    assert all(key.namespace == "default" for key in found)
    return {key.name for key in found}


def test_a_pod_wakes_the_services_that_select_it_and_those_that_did() -> None:
    selectors = Selectors()
    for seen in (
        service("one", app="web"),
        service("both", app="web", tier="front"),
        service("elsewhere", "other", app="web"),
        service("without"),
    ):
        assert selectors.saw(seen) == []
    assert woken(selectors, pod("p", app="web")) == {"one"}
    assert woken(selectors, pod("p", app="web", tier="front")) == {"one", "both"}
    assert woken(selectors, pod("p", tier="front")) == {"one", "both"}
    assert woken(selectors, pod("p", tier="front")) == set()


def test_a_selector_that_changes_and_a_service_that_goes_are_followed() -> None:
    selectors = Selectors()
    selectors.saw(service("one", app="web"))
    selectors.saw(service("one", app="api"))
    assert woken(selectors, pod("p", app="web")) == set()
    assert woken(selectors, pod("q", app="api")) == {"one"}
    selectors.saw(service("one"))
    assert woken(selectors, pod("q", app="api")) == set()
    selectors.saw(service("one", app="api"))
    selectors.forget(Key("default", "one"))
    selectors.forget(Key("default", "one"))
    assert woken(selectors, pod("q", app="api")) == set()
