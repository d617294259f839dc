# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which claims a Workspace should have: one for each node that it needs, under names that can exist only once.

The name of a claim follows from the Workspace and the claim's place, so the API server itself sees to it that there is
never a second one for the same place, however stale a cache is or however many operators there are. A place is filled
again only when its claim is entirely gone. Claims of other names that carry our labels (made by KAITO) are counted as
they are. What a claim looks like is in `nodeclaim.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kaito.api import names
from kaito.catalog.gpus import instance_type
from kaito.kube.manifest import Key, Manifest, condition_of, is_deleting, key_of, labels_of
from kaito.kube.plan import Delete, Event, Patch
from kaito.kube.resource import NODES, Resource, resource_of
from kaito.operator.faults.table import found, named
from kaito.operator.provisioners import trouble
from kaito.operator.provisioners.ledger import Ledger
from kaito.operator.provisioners.supply import Demand, Stock, Supply
from kaito.operator.provisioners.survey import is_ready, names_of
from kaito.operator.provisioners.wish import Verdict, Wish

NEVER_CAME_S = 20 * 60.0
"""A claim that is no node by then is replaced. Karpenter gives up after 15 minutes by itself."""
LOST_S = 10 * 60.0
"""A node that was there and is not ready for so long is replaced. Pods leave it after 5 minutes."""
LOOK_AGAIN_S = 10.0
"""For a kind of claim that the server does not have yet."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of claim."""

    resource: Resource
    pool_label: str
    """On every node that came of a claim of this kind."""
    build: Callable[[Demand, str], Manifest]
    """The claim of a name."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The claims of a Workspace, sorted out."""

    need: int
    live: tuple[Manifest, ...]
    """Oldest first."""
    leaving: tuple[Manifest, ...]
    places: Mapping[str, int]
    """The names of the claims that we would make, by place."""
    broken: Mapping[str, str]
    """Those of the live ones whose node never came or was lost, and which of the two."""
    deadlines: tuple[datetime, ...]
    """When another one will be."""
    ledger: Ledger


def claim_name(owner: Key, place: int) -> str:
    """The name of the Workspace's claim for a place: 11 characters, as many as a node pool's name has on Azure."""
    return "ws" + hashlib.sha256(f"{owner}/{place}".encode()).hexdigest()[:9]


def supply(demand: Demand, stock: Stock, now: datetime, shapes: Sequence[Shape]) -> Supply:
    """What to order and to give back; of the shapes, the first that the server has is ordered."""
    shape = next((shape for shape in shapes if shape.resource in stock.served), None)
    if shape is None:
        return _no_provisioner(shapes)
    standing = _standing(demand, stock, now, shapes)
    annotations = {names.NODE_ORDERS_ANNOTATION: str(standing.ledger)} if standing.ledger != stock.ledger else None
    if not demand.may_order:
        return Supply(_verdict(standing, shape, demand.wish, now), annotations=annotations)
    surplus, replaced = _given_back(standing, now)
    free = _free_places(standing)
    ordered = [place for place in free if _is_due(standing.ledger, place, now)]
    made = tuple(shape.build(demand, claim_name(demand.wish.owner, place)) for place in ordered)
    return Supply(
        verdict=_verdict(standing, shape, demand.wish, now),
        create=made,
        delete=tuple(_delete(claim, shapes) for claim in (*surplus, *replaced)),
        patches=tuple(accelerators(demand.wish, stock.ours)),
        events=tuple(_events(demand, standing, made, surplus, replaced)),
        annotations=annotations,
        requeue_after_s=_next_look_s(standing, free, now),
    )


def _no_provisioner(shapes: Sequence[Shape]) -> Supply:
    kind = shapes[0].resource
    message = (
        f"Nodes cannot be ordered: this cluster has no {kind.plural}.{kind.group}. Install Karpenter or the "
        "gpu-provisioner, or start the operator with --provisioner byo and label nodes."
    )
    cause = named(names.REASON_NO_NODE_PROVISIONER, message)
    verdict = Verdict(False, names.REASON_NO_NODE_PROVISIONER, message, is_failure=True, diagnosis=cause)
    return Supply(verdict, requeue_after_s=LOOK_AGAIN_S)


def _standing(demand: Demand, stock: Stock, now: datetime, shapes: Sequence[Shape]) -> Standing:
    need = needed(demand, stock, [shape.pool_label for shape in shapes])
    live = sorted((claim for claim in stock.orders if not is_deleting(claim)), key=_age)
    places = {claim_name(demand.wish.owner, place): place for place in range(need)}
    nodes = {node["metadata"]["name"]: node for node in stock.nodes}
    broken, deadlines = {}, []
    for claim in live:
        why, deadline = _trouble(claim, nodes, stock, now)
        if deadline > now:
            deadlines.append(deadline)
        elif why:
            broken[claim["metadata"]["name"]] = why
    seen = [(places[name], made) for name, made in _named_orders(stock.orders) if name in places]
    return Standing(
        need=need,
        live=tuple(live),
        leaving=tuple(claim for claim in stock.orders if is_deleting(claim)),
        places=places,
        broken=broken,
        deadlines=tuple(deadlines),
        ledger=stock.ledger.seen(seen),
    )


def _age(claim: Manifest) -> tuple[str, str]:
    return str(claim["metadata"].get("creationTimestamp")), str(claim["metadata"]["name"])


def _named_orders(orders: Iterable[Manifest]) -> Iterable[tuple[str, datetime]]:
    for order in orders:
        made = trouble.created_at(order)
        if made is not None:
            yield order["metadata"]["name"], made


def needed(demand: Demand, stock: Stock, pool_labels: Sequence[str]) -> int:
    """How many claims there should be. A node that somebody labelled as the Workspace's own takes the place of one."""
    if not demand.wish.instance_type:
        return 0
    claimed = {trouble.node_of(order) for order in stock.orders}
    by_hand = [
        node
        for node in stock.ours
        if node["metadata"]["name"] not in claimed
        and not is_deleting(node)
        and not any(label in labels_of(node) for label in pool_labels)
    ]
    return max(0, demand.target - len(by_hand))


def _trouble(claim: Manifest, nodes: Mapping[str, Manifest], stock: Stock, now: datetime) -> tuple[str, datetime]:
    """What would be wrong with the claim's node, and since when it is; a time to come while it is not."""
    if not trouble.is_registered(claim):
        made = trouble.created_at(claim) or now
        return f"did not become a node within {NEVER_CAME_S / 60:.0f} minutes", made + timedelta(seconds=NEVER_CAME_S)
    name = trouble.node_of(claim)
    node = nodes.get(name)
    if node is not None and is_ready(node):
        return "", now
    # A cluster that was stopped and started again has nodes that have been away for days: what counts is for how long
    # we have been waiting for them, which is what the status says.
    moments = [stock.waiting_since or now, trouble.registered_at(claim) or now]
    left = trouble.moment((condition_of(node or {}, "Ready") or {}).get("lastTransitionTime"))
    since = max([*moments, left] if left else moments)
    what = "is gone" if node is None else "is not ready"
    return f"has lost its node: {name} {what} for {LOST_S / 60:.0f} minutes", since + timedelta(seconds=LOST_S)


def _given_back(standing: Standing, now: datetime) -> tuple[list[Manifest], list[Manifest]]:
    """The claims that are too many, and those that are to make room for another one."""
    too_many = len(standing.live) - standing.need
    by_worth = sorted(standing.live, key=lambda claim: _worth(claim, standing))
    surplus = by_worth[: max(0, too_many)]
    replaced = []
    for claim in by_worth[len(surplus) :]:
        name = claim["metadata"]["name"]
        place = standing.places.get(name)
        if name in standing.broken and (place is None or _is_due(standing.ledger, place, now)):
            replaced.append(claim)
    return surplus, replaced


def _worth(claim: Manifest, standing: Standing) -> tuple[bool, bool, bool, int, str]:
    """Sorts what is missed least to the front: broken, not ready, not ours by name, the last place."""
    name = str(claim["metadata"]["name"])
    place = standing.places.get(name)
    return name not in standing.broken, trouble.is_order_ready(claim), place is not None, -(place or 0), name


def _free_places(standing: Standing) -> list[int]:
    """The places to fill: as many as claims are missing, of those whose claim is entirely gone."""
    missing = standing.need - len(standing.live)
    taken = {claim["metadata"]["name"] for claim in (*standing.live, *standing.leaving)}
    free = [place for name, place in standing.places.items() if name not in taken]
    return free[: max(0, missing)]


def _is_due(ledger: Ledger, place: int, now: datetime) -> bool:
    due = ledger.due(place)
    return due is None or due <= now


def _next_look_s(standing: Standing, free: Sequence[int], now: datetime) -> float | None:
    """When time alone will change the plan."""
    orders = [standing.ledger.due(place) for place in free]
    again = [
        standing.ledger.due(standing.places[name]) for name in standing.broken if name in standing.places
    ]  # a broken one that may not be replaced yet
    moments = [moment for moment in (*standing.deadlines, *orders, *again) if moment is not None and moment > now]
    return max(1.0, (min(moments) - now).total_seconds()) if moments else None


def _delete(claim: Manifest, shapes: Sequence[Shape]) -> Delete:
    resource = resource_of(claim, [shape.resource for shape in shapes])
    return Delete(resource, key_of(claim), uid=claim["metadata"].get("uid"))


def accelerators(wish: Wish, nodes: Iterable[Manifest]) -> Iterable[Patch]:
    """The label by which device plugins find GPU nodes, for those that lack it."""
    known = instance_type(wish.instance_type)
    if known is None or not known.gpus.is_nvidia:
        return
    for node in nodes:
        if names.ACCELERATOR_LABEL not in labels_of(node) and not is_deleting(node):
            yield Patch(NODES, key_of(node), {"metadata": {"labels": {names.ACCELERATOR_LABEL: "nvidia"}}})


def _events(
    demand: Demand,
    standing: Standing,
    made: Sequence[Manifest],
    surplus: Sequence[Manifest],
    replaced: Sequence[Manifest],
) -> Iterable[Event]:
    about = demand.workspace
    for claim in made:
        count = standing.ledger.count(standing.places[claim["metadata"]["name"]])
        order = f", order {count + 1} for this node" if count else ""
        what = f"{claim['kind']} {claim['metadata']['name']} orders a {demand.wish.instance_type}{order}."
        yield Event(about, names.EVENT_NODE_CLAIM_CREATED, what)
    for claim in replaced:
        name = claim["metadata"]["name"]
        text = f"{claim['kind']} {name} {standing.broken[name]}: it is deleted, and a node ordered in its place."
        yield Event(about, names.EVENT_NODE_CLAIM_REPLACED, text, "Warning")
    for claim in surplus:
        text = f"{claim['kind']} {claim['metadata']['name']} is deleted: {standing.need} of them are needed."
        yield Event(about, names.EVENT_NODE_CLAIM_REMOVED, text)


def _verdict(standing: Standing, shape: Shape, wish: Wish, now: datetime) -> Verdict:
    kind, need = shape.resource.kind, standing.need
    ready = [claim for claim in standing.live if trouble.is_order_ready(claim)]
    if len(ready) >= need:
        said = f"{len(ready)} of {need} {kind}s are ready: {names_of(ready)}." if ready else f"No {kind} is needed."
        return Verdict(True, names.REASON_NODE_CLAIMS_READY, said)
    waiting = [claim for claim in standing.live if not trouble.is_order_ready(claim)]
    lost = next((claim["metadata"]["name"] for claim in waiting if claim["metadata"]["name"] in standing.broken), None)
    if lost is not None:
        cause = found("order", f"{kind} {lost} {standing.broken[lost]}", type=wish.instance_type)
        return Verdict(False, cause.condition, cause.message, diagnosis=cause)
    said, name = trouble.words(waiting)
    if said:
        return trouble.verdict(f"{kind} {name} is not ready", said, wish.instance_type)
    waits = _waiting_for(standing, kind, wish, now)
    paced = found("order", waits)
    is_paced = paced.reason == names.REASON_ORDER_PACED
    return Verdict(False, names.REASON_NODE_CLAIM_NOT_READY, waits, diagnosis=paced if is_paced else None)


def _waiting_for(standing: Standing, kind: str, wish: Wish, now: datetime) -> str:
    ready = sum(trouble.is_order_ready(claim) for claim in standing.live)
    count = f"{ready} of {standing.need} ready"
    waiting = [claim for claim in standing.live if not trouble.is_order_ready(claim)]
    if waiting:
        return f"Waiting for {kind} {names_of(waiting)} to become a node ({count})."
    if standing.leaving:
        return f"Waiting until {kind} {names_of(standing.leaving)} is gone; then a new one is made ({count})."
    dues = [due for place in _free_places(standing) if (due := standing.ledger.due(place)) and due > now]
    if dues:
        return f"The last order failed; the next one is made at {min(dues):%H:%M:%S} UTC ({count})."
    missing = standing.need - ready
    return f"Ordering {missing} {wish.instance_type} {'node' if missing == 1 else 'nodes'} ({count})."
