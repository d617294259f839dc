# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What is known of the cloud: its machines, how calls ended, what is out of stock. The cloud's counterpart of a cache.

Fed by `cloud.py` with lists and with the ends of calls, read while observing. No I/O and no clock: whoever feeds it
brings the time. The one rule behind it: that a machine is absent is believed only of a list that began long enough
after the last call that could have made it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from kaito.provisioner.errors import CloudError, NameTaken, OutOfCapacity, QuotaExceeded, Rejected, Throttled, Unclear
from kaito.provisioner.instances import Create, Delete, Instance, Order
from kaito.provisioner.offers import Market, Offer

STOCKOUT_S = 180.0
"""For how long an offer that was out of stock is not asked for again."""
PAUSES_S = (2.0, 5.0, 15.0, 60.0, 300.0)
"""The wait after the first, second, ... refusal in a row of one claim; the last one repeats."""
UNCLEAR_S = 5.0
THROTTLED_S = 5.0
REMEMBERED_S = 3600.0


@dataclass(frozen=True, slots=True)
class Stockout:
    """An offer that the cloud could not serve."""

    until: datetime
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the last call to make a claim's machine ended."""

    attempt: int
    error: CloudError | None
    retry_at: datetime
    """Nothing is asked for the claim before."""
    refusals: int
    """How many in a row made nothing."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What is known about one claim's machine."""

    listed: bool
    """Whether there has been a list at all."""
    instance: Instance | None
    outcome: Outcome | None
    trouble: CloudError | None
    """Why the cloud cannot be listed; None when it can."""


@dataclass(slots=True)
class _Known:
    instance: Instance
    seen_at: datetime
    """When the cloud last said that it is there."""


class Fleet:
    """The machines of one cluster."""

    def __init__(self, market: Market, *, list_lag_s: float = 0.0, settle_s: float = 45.0) -> None:
        """`settle_s`: how long a call that another replica, or this one before it was restarted, has sent may still
        take to have its effect."""
        self.market = market
        self.trouble: CloudError | None = None
        self.started: datetime | None = None
        """When this process took over; None where another one may be acting beside it at any time."""
        self._lag = timedelta(seconds=list_lag_s)
        self._settle = timedelta(seconds=settle_s)
        self._known: dict[str, _Known] = {}
        self._by_claim: dict[str, set[str]] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._called: dict[str, datetime] = {}
        self._calling: set[str] = set()
        self._stockouts: dict[Offer, Stockout] = {}
        self._failures_told: set[str] = set()
        self._listed_at: datetime | None = None
        self._wakes: list[Callable[[str], None]] = []

    def subscribe(self, wake: Callable[[str], None]) -> Callable[[], None]:
        """Tell the names of claims about whose machines something changed; the result ends that."""
        self._wakes.append(wake)
        return lambda: self._wakes.remove(wake)

    # Reading

    def sight(self, claim: str, uid: str) -> Sight:
        """What is known of a claim's machine."""
        return Sight(self._listed_at is not None, self.of_claim(claim, uid), self._outcomes.get(uid), self.trouble)

    def of_claim(self, claim: str, uid: str) -> Instance | None:
        """The claim's machine; if there are several, one that is up before one that is not."""
        found = [self._known[id_].instance for id_ in self._by_claim.get(claim, ())]
        ours = [instance for instance in found if instance.claim_uid in ("", uid)]
        return min(ours, key=lambda i: (not i.is_up, i.state == "gone", i.id), default=None)

    def strangers(self, claim: str, uids: Iterable[str]) -> list[Instance]:
        """Machines of that claim's name that belong to none of the uids; `gone` ones are not counted."""
        mine = frozenset(uids)
        found = [self._known[id_].instance for id_ in sorted(self._by_claim.get(claim, ()))]
        return [i for i in found if i.state != "gone" and not (i.claim_uid in mine or (not i.claim_uid and mine))]

    def claims(self) -> Iterable[str]:
        """The names of all claims that have machines."""
        return self._by_claim.keys()

    def instances(self) -> Iterable[Instance]:
        """All that are known."""
        return (known.instance for known in self._known.values())

    def is_absent(self, claim: str, uid: str, since: datetime) -> bool:
        """Whether the claim certainly has no machine and will get none, if nothing was asked after `since`."""
        instance = self.of_claim(claim, uid)
        if (instance is not None and instance.state != "gone") or uid in self._calling or self._listed_at is None:
            return False
        settled = (since if self.started is None else self.started) + self._settle
        quiet = max(settled, self._called.get(uid, settled))
        return self._listed_at >= quiet + self._lag

    def settles_at(self, uid: str, since: datetime) -> datetime:
        """From when on a list can show that."""
        settled = (since if self.started is None else self.started) + self._settle
        return max(settled, self._called.get(uid, settled)) + self._lag

    def stockout(self, offer: Offer, now: datetime) -> Stockout | None:
        """Whether the offer is remembered as out of stock."""
        found = self._stockouts.get(offer)
        return found if found is not None and found.until > now else None

    @property
    def is_busy(self) -> bool:
        """Whether something is expected to change without our doing."""
        return any(known.instance.state not in ("running", "gone") for known in self._known.values()) or bool(
            self._calling
        )

    # Feeding

    def began(self, call: Create | Delete) -> None:
        """A call is about to be sent."""
        if isinstance(call, Create):
            self._calling.add(call.order.claim_uid)

    def made(self, order: Order, instance: Instance, now: datetime) -> None:
        """The cloud has answered with a machine."""
        self._ended(order, now)
        before = self._outcomes.get(order.claim_uid)
        self._outcomes[order.claim_uid] = Outcome(order.attempt, None, now, before.refusals if before else 0)
        self._put(instance, now)
        self._wake(instance.claim)

    def not_made(self, order: Order, error: CloudError, now: datetime) -> None:
        """The call has failed."""
        self._ended(order, now)
        before = self._outcomes.get(order.claim_uid)
        refusals = (before.refusals if before else 0) + (not isinstance(error, Throttled | Unclear))
        self._outcomes[order.claim_uid] = Outcome(
            order.attempt, error, now + timedelta(seconds=_pause_s(error, refusals)), refusals
        )
        if isinstance(error, OutOfCapacity):
            self._out_of_stock(order.offer, str(error), now)
        self._wake(order.claim)

    def abandoned(self, order: Order, now: datetime) -> None:
        """The call was not sent after all."""
        self._calling.discard(order.claim_uid)
        self._wake(order.claim)

    def deleted(self, instance: Instance, now: datetime, *, is_gone: bool = False) -> None:
        """The cloud takes the machine away, or does not know it any more."""
        if instance.id in self._known:
            self._put(replace(instance, state="gone" if is_gone else "stopping"), now)
        self._wake(instance.claim)

    def listed(self, instances: Iterable[Instance], began: datetime) -> None:
        """A whole list that was asked for at `began`."""
        self.trouble = None
        changed = set()
        seen = set()
        for instance in instances:
            seen.add(instance.id)
            known = self._known.get(instance.id)
            if known is not None and instance.is_up and self._is_old_answer(known, began):
                continue
            if instance.state == "failed" and instance.id not in self._failures_told:
                self._failures_told.add(instance.id)
                self._async_failure(instance, began)
            if known is None or known.instance != instance:
                changed.add(instance.claim)
            self._put(instance, max(began, known.seen_at) if known is not None else began)
        for id_, known in list(self._known.items()):
            if id_ in seen or began < known.seen_at + self._lag:
                continue
            if known.instance.state != "gone":
                changed.add(known.instance.claim)
                self._put(replace(known.instance, state="gone"), began)
            elif began > known.seen_at + timedelta(seconds=REMEMBERED_S):
                self._drop(id_)
        first = self._listed_at is None
        self._listed_at = began
        for claim in list(self._by_claim) if first else changed:
            self._wake(claim)

    def _is_old_answer(self, known: _Known, began: datetime) -> bool:
        return known.instance.state in ("gone", "stopping") and began <= known.seen_at + self._lag

    def not_listed(self, error: CloudError) -> None:
        """A list has failed."""
        is_news = str(error) != str(self.trouble)
        self.trouble = error
        for claim in list(self._by_claim) if is_news else ():
            self._wake(claim)

    def forget(self, uid: str, claim: str) -> None:
        """The claim is gone for good."""
        self._outcomes.pop(uid, None)
        self._called.pop(uid, None)
        for id_ in list(self._by_claim.get(claim, ())):
            if self._known[id_].instance.state == "gone" and self._known[id_].instance.claim_uid == uid:
                self._failures_told.discard(id_)

    def _async_failure(self, instance: Instance, now: datetime) -> None:
        """A machine that could not come up tells of a stock-out, or of a quota, as a refused call does."""
        text = instance.note or "the machine did not come up"
        error = {"quota": QuotaExceeded, "rejected": Rejected}.get(instance.fault, OutOfCapacity)(text)
        offer = self.market.named(instance.instance_type, instance.zone, instance.capacity_type)
        if offer is not None and isinstance(error, OutOfCapacity):
            self._out_of_stock(offer, text, now)
        uid = instance.claim_uid
        before = self._outcomes.get(uid)
        refusals = (before.refusals if before else 0) + 1
        self._outcomes[uid] = Outcome(
            before.attempt if before else 0, error, now + timedelta(seconds=_pause_s(error, refusals)), refusals
        )

    def _out_of_stock(self, offer: Offer, text: str, now: datetime) -> None:
        self._stockouts[offer] = Stockout(now + timedelta(seconds=STOCKOUT_S), text)

    def _ended(self, order: Order, now: datetime) -> None:
        self._calling.discard(order.claim_uid)
        self._called[order.claim_uid] = now

    def _put(self, instance: Instance, seen_at: datetime) -> None:
        self._known[instance.id] = _Known(instance, seen_at)
        self._by_claim.setdefault(instance.claim, set()).add(instance.id)

    def _drop(self, id_: str) -> None:
        instance = self._known.pop(id_).instance
        self._failures_told.discard(id_)
        of_claim = self._by_claim[instance.claim]
        of_claim.discard(id_)
        if not of_claim:
            del self._by_claim[instance.claim]

    def _wake(self, claim: str) -> None:
        for wake in list(self._wakes):
            wake(claim)


def _pause_s(error: CloudError, refusals: int) -> float:
    """How long to leave a claim alone after an error."""
    if isinstance(error, Throttled):
        return error.retry_after_s if error.retry_after_s is not None else THROTTLED_S
    if isinstance(error, Unclear):
        return UNCLEAR_S
    if isinstance(error, OutOfCapacity):
        return 0.0  # the next offer may be asked for at once; this one is remembered
    if isinstance(error, QuotaExceeded | NameTaken):
        return max(60.0, PAUSES_S[min(refusals, len(PAUSES_S)) - 1])
    return PAUSES_S[min(refusals, len(PAUSES_S)) - 1]
