# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The parts that histories do not reach: offers and their order, draining, limits, what claims say, settings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kaito.api import nodeclaims as names
from kaito.kube.manifest import Manifest, rfc3339
from kaito.provisioner import errors
from kaito.provisioner.budget import limits, standing
from kaito.provisioner.claim import Attempt, Replaced, duration_s, quantity, read_claim
from kaito.provisioner.draining import drain
from kaito.provisioner.fleet import PAUSES_S, Fleet
from kaito.provisioner.guard import is_orphan, may_create
from kaito.provisioner.instances import Create, Instance
from kaito.provisioner.joining import gpus_missing
from kaito.provisioner.launching import launch
from kaito.provisioner.offers import Market, Requirement, Wish, offer
from kaito.provisioner.settings import BadSettings, Settings, parse
from tests.unit.provisioner.orders import order
from tests.unit.provisioner.simulation import claim_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MARKET = Market(
    [
        offer("g5.xlarge", "a", "on-demand", dollars=1.0, gpus=1),
        offer("g5.xlarge", "b", "on-demand", dollars=1.0, gpus=1),
        offer("g5.xlarge", "b", "spot", dollars=1.0, gpus=1),
        offer("p5.48xlarge", "b", "on-demand", dollars=55.0, gpus=8),
        offer("x9.huge", "a", "on-demand", dollars=None, gpus=8),
    ]
)


def wish(*terms: tuple[str, str, tuple[str, ...]], **labels: str) -> Wish:
    return Wish(tuple(Requirement(*term) for term in terms), tuple(sorted(labels.items())))


def claim(**changes: Any) -> Any:
    made = claim_of("c", ["g5.xlarge"])
    meta = {
        "uid": "u",
        "resourceVersion": "1",
        "creationTimestamp": rfc3339(NOW),
        "finalizers": [names.TERMINATION_FINALIZER],
    }
    made["metadata"] |= meta | changes.pop("metadata", {})
    made["spec"] |= changes
    return read_claim(made, names.NODE_CLAIMS)


def test_the_cheapest_comes_first_spot_before_on_demand_and_unknown_prices_last() -> None:
    found = [str(o) for o in MARKET.matching(wish())]
    assert found == [
        "g5.xlarge b spot", "g5.xlarge a on-demand", "g5.xlarge b on-demand", "p5.48xlarge b on-demand",
        "x9.huge a on-demand",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("term", "count"),
    [
        ((names.INSTANCE_TYPE_LABEL, "In", ("G5.XLARGE",)), 3),
        ((names.ZONE_LABEL, "NotIn", ("a",)), 3),
        ((names.ZONE_LABEL, "Exists", ()), 5),
        (("nothing", "DoesNotExist", ()), 5),
        (("nothing", "Gt", ("0",)), 0),
        (("team", "In", ("vision",)), 5),
        ((names.ZONE_LABEL, "Near", ("a",)), 0),
    ],
)
def test_requirements_choose_among_offers(term: tuple[str, str, tuple[str, ...]], count: int) -> None:
    assert len(MARKET.matching(wish(term, team="vision"))) == count


def test_a_claim_that_does_not_ask_for_spot_gets_none() -> None:
    made = claim_of("c", ["g5.xlarge"])
    made["spec"]["requirements"] = made["spec"]["requirements"][:1]
    found = MARKET.matching(read_claim({**made, "metadata": {"name": "c"}}, names.NODE_CLAIMS).wish)
    assert {o.capacity_type for o in found} == {"on-demand"}


def test_what_nothing_satisfies_is_named_with_what_there_is() -> None:
    is_type, text = MARKET.complaint(
        wish((names.INSTANCE_TYPE_LABEL, "In", ("g5.xlarge",)), (names.ZONE_LABEL, "In", ("mars",)))
    )
    assert (is_type, text) == (False, f"no instance type satisfies {names.ZONE_LABEL} In mars: this cloud has a, b")
    assert MARKET.complaint(wish((names.INSTANCE_TYPE_LABEL, "In", ("q1",))))[0]


def launched(made: Any, fleet: Fleet, **known: Any) -> Any:
    known = {"grant": 100.0, "room": "", "needs_price": False} | known
    return launch(made, None, fleet.sight("c", "u").outcome, fleet, now=NOW, **known)


def test_every_refusal_is_told_in_the_clouds_words_and_waits() -> None:
    kinds = (
        errors.QuotaExceeded,
        errors.Unauthorised,
        errors.Rejected,
        errors.NameTaken,
        errors.Throttled,
        errors.Unclear,
    )
    for kind in kinds:
        fleet = Fleet(MARKET)
        attempt = {names.ATTEMPT_ANNOTATION: "1 g5.xlarge b spot"}
        fleet.not_made(order("c", "g5.xlarge", zone="b", capacity_type="spot"), kind("the cloud's words"), NOW)
        fleet._outcomes["u"] = fleet._outcomes["uid-c"]
        stage = launched(claim(metadata={"annotations": attempt}), fleet)
        assert "the cloud's words" in stage.conditions[0].message
        assert not stage.calls, kind
        assert stage.again_s, kind
    assert PAUSES_S[-1] >= 300


def test_the_next_offer_is_tried_when_one_is_out_of_stock_and_all_are_told_when_none_is_left() -> None:
    fleet = Fleet(MARKET)
    for zone, contract in (("b", "spot"), ("a", "on-demand")):
        fleet.not_made(order("c", "g5.xlarge", zone=zone, capacity_type=contract), errors.OutOfCapacity("none"), NOW)  # type: ignore[arg-type]
    # Stock-outs are remembered by offer, whatever the price that an order was made at.
    fleet._stockouts = {o: s for found, s in fleet._stockouts.items() for o in MARKET.offers if str(o) == str(found)}
    (call,) = launched(claim(), fleet).calls
    assert str(call.order.offer) == "g5.xlarge b on-demand"
    fleet._stockouts |= {o: next(iter(fleet._stockouts.values())) for o in MARKET.offers}
    stage = launched(claim(), fleet)
    assert (stage.conditions[0].reason, stage.calls) == (names.REASON_CAPACITY, ())
    assert stage.again_s == 180


def test_nothing_is_asked_for_without_room_or_without_a_price_where_dollars_are_limited() -> None:
    fleet = Fleet(MARKET)
    assert launched(claim(), fleet, grant=None).conditions[0].reason == names.REASON_BUDGET
    assert launched(claim(), fleet, grant=0.5).conditions[0].reason == names.REASON_BUDGET
    dear = claim()
    dear.spec["requirements"][0]["values"] = ["x9.huge"]
    assert launched(dear, fleet, needs_price=True).conditions[0].reason == names.REASON_PRICE


@pytest.mark.parametrize(
    ("spec", "text"),
    [({"requirements": []}, "requirements is empty"), ({"requirements": [{"key": "a"}]}, "lacks key or operator"),
     ({"expireAfter": "soon"}, "write it like 720h")],
)  # fmt: skip
def test_a_claim_that_makes_no_sense_says_why_and_is_left_alone(spec: Manifest, text: str) -> None:
    stage = launched(claim(**spec), Fleet(MARKET))
    assert stage.conditions[0].status == "False"
    assert text in stage.conditions[0].message
    assert (stage.calls, stage.again_s) == ((), None)


def pod(name: str, **spec: Any) -> Manifest:
    meta = {"name": name, "namespace": "n", "uid": name, "labels": {"app": name}} | spec.pop("metadata", {})
    return {"metadata": meta, "spec": {"nodeName": "x", **spec}, "status": {"phase": spec.pop("phase", "Running")}}


def owned(kind: str) -> Manifest:
    return {"ownerReferences": [{"kind": kind, "name": "o", "uid": "o", "controller": True}]}


def names_of(step: Any) -> list[str]:
    return [create.manifest["metadata"]["name"] for create in step.evictions]


def test_pods_leave_in_order_and_some_stay() -> None:
    tolerates = [{"operator": "Exists"}]
    pods = [
        pod("plain"), pod("daemon", metadata=owned("DaemonSet")),
        pod("critical", priorityClassName="system-node-critical"),
        pod("static", metadata=owned("Node")), pod("plugin", tolerations=tolerates), pod("done", phase="Succeeded"),
    ]  # fmt: skip

    def step(left: list[Manifest]) -> Any:
        return drain(left, [], deadline=None, stuck_s=60, now=NOW)

    assert names_of(step(pods)) == ["plain"]
    assert names_of(step(pods[1:])) == ["daemon"]
    assert names_of(step(pods[2:])) == ["critical"]
    assert step(pods[3:]).waits_for == ""


def test_a_disruption_budget_lets_as_many_go_as_it_has_room_for() -> None:
    guard = {
        "metadata": {"name": "guard", "namespace": "n"},
        "spec": {"selector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}},
        "status": {"disruptionsAllowed": 1},
    }
    step = drain([pod("a"), pod("b")], [guard], deadline=None, stuck_s=60, now=NOW)
    assert names_of(step) == ["a"]
    assert "n/b (PodDisruptionBudget guard)" in step.waits_for


def test_before_the_deadline_pods_are_deleted_with_the_time_that_is_left() -> None:
    notes = {"annotations": {names.DO_NOT_DISRUPT_ANNOTATION: "true"}}
    slow = pod("slow", terminationGracePeriodSeconds=600, metadata=notes)
    step = drain([slow, pod("quick", metadata=notes)], [], deadline=NOW + timedelta(seconds=300), stuck_s=60, now=NOW)
    assert [(deletion.key.name, deletion.grace_period_s) for deletion in step.deletions] == [("slow", 300)]
    assert step.evictions == ()


def test_a_pod_that_is_stuck_does_not_hold_its_node_for_ever() -> None:
    stuck = pod("stuck", metadata={"deletionTimestamp": rfc3339(NOW - timedelta(seconds=61))})
    assert drain([stuck], [], deadline=None, stuck_s=60, now=NOW).waits_for == ""


def test_the_stricter_of_flag_and_object_counts() -> None:
    budget = {"spec": {"maxNodes": 5, "maxDollarsPerHour": 90}, "status": {"nodes": 5, "dollarsPerHour": 80.5}}
    found = limits(Settings(max_nodes=9, max_dollars_per_hour=50), budget)
    assert (found.nodes, found.dollars) == (5, 50)
    assert limits(Settings(), {"spec": {"maxNodes": 0}}).nodes == 0
    assert standing(Settings(), budget) == "5 of 5 nodes and $80.5 of $90 per hour"


def test_the_last_look_refuses_what_has_changed_meanwhile() -> None:
    call = Create(order("c", "g5.xlarge", zone="b"), names.NODE_CLAIMS)
    notes = {names.ATTEMPT_ANNOTATION: str(Attempt.of(1, call.order.offer))}
    good = {"metadata": {"uid": "uid-c", "annotations": notes}}
    budget = {"status": {"reservations": {"uid-c": {"dollarsPerHour": 1.0}}}}
    assert may_create(call, good, budget)
    replaced = {**notes, names.REPLACED_ANNOTATION: str(Replaced(1, 1, "why"))}
    bad = [
        (None, budget), ({"metadata": {**good["metadata"], "uid": "other"}}, budget),
        ({"metadata": {**good["metadata"], "deletionTimestamp": "now"}}, budget),
        ({"metadata": {"uid": "uid-c", "annotations": {names.ATTEMPT_ANNOTATION: "2 g5.xlarge b on-demand"}}}, budget),
        ({"metadata": {"uid": "uid-c", "annotations": replaced}}, budget),
        (good, None), (good, {"status": {"reservations": {"uid-c": {"dollarsPerHour": 0.5}}}}),
    ]  # fmt: skip
    assert [may_create(call, found, books) for found, books in bad] == [False] * len(bad)


def test_a_machine_is_an_orphan_only_when_its_very_claim_is_gone() -> None:
    machine = Instance("i", "c", "u", "running", "t")
    assert is_orphan(machine, [None, None])
    assert is_orphan(machine, [{"metadata": {"uid": "another"}}])
    assert not is_orphan(machine, [{"metadata": {"uid": "u"}}])
    assert not is_orphan(Instance("i", "c", "", "running", "t"), [{"metadata": {"uid": "another"}}])


def test_gpus_are_counted_against_what_the_type_has() -> None:
    def node(count: str | None) -> Manifest:
        amounts = {"nvidia.com/gpu": count} if count else {}
        return {"metadata": {"name": "x"}, "status": {"capacity": amounts, "allocatable": amounts}}

    assert gpus_missing(node("8"), 8) == ""
    assert gpus_missing(node(None), 0) == ""
    assert gpus_missing(node("7"), 8) == "node x shows 7 of 8 nvidia.com/gpu"
    assert gpus_missing(node(None), 8) == "node x shows no nvidia.com/gpu (its type has 8)"


def test_notes_on_a_claim_are_read_as_they_were_written() -> None:
    assert Attempt.parse(str(Attempt(3, "g5.xlarge", "", "spot"))) == Attempt(3, "g5.xlarge", "", "spot")
    assert Replaced.parse(str(Replaced(3, 1, "no GPUs"))) == Replaced(3, 1, "no GPUs")
    assert Attempt.parse("what") is None
    assert Replaced.parse("what") == Replaced()
    assert (duration_s("1h30m"), duration_s("Never"), quantity("100Gi"), quantity("x")) == (
        5400,
        None,
        100 * 2**30,
        None,
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--cloud", "moon"], "--cloud is moon: choose"),
        (["--cloud", "aws"], "--cloud aws needs --cluster, --region, --instance-profile"),
        (["--max-nodes", "many"], "--max-nodes is many: write a number"),
        (["--max-nodes", "-1"], "--max-nodes is -1: it cannot be negative"),
        (["--kubeconfig", "/nowhere"], "--kubeconfig names /nowhere"),
        (["--what"], "kaito-provisioner --help lists all flags"),
    ],
)
def test_settings_that_cannot_be_used_name_the_flag(arguments: list[str], text: str) -> None:
    with pytest.raises(BadSettings, match=text):
        parse(arguments, {})


def test_settings_come_from_flags_and_from_the_environment() -> None:
    made = parse(["--zones", "a,b", "--dry-run", "--gpus-timeout", "60"], {"KAITO_PROVISIONER_MAX_NODES": "7"})
    assert (made.zones, made.dry_run, made.timing.gpus_s, made.max_nodes) == (("a", "b"), True, 60, 7)
