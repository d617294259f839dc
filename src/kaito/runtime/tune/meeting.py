# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Carries what the ranks of a tuning tell each other: rank 0 answers over HTTP, the others ask.

`Company` is what `app.py` sees of it: wait until all are there, hear when to give an attempt up, tell how it ended.
What is decided is in `ranks.py`. Whoever reaches the port can disturb a training but learns nothing and runs nothing;
torch's own ports, which open beside it, trust the pod network in the same way.
"""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from pydantic import ValidationError

from kaito.api.contracts import Together
from kaito.runtime.settings import Settings
from kaito.runtime.tune.progress import say
from kaito.runtime.tune.ranks import SILENT_AFTER_S, Ended, Muster, Order, Report, rank_of

POLL_S = 1.0
TIMEOUT_S = 5.0
LONGEST_REPORT = 64 * 1024
LINGER_S = 10.0
"""How long rank 0 waits at the end until all have heard that it is done."""

Wait = Callable[[float], None]
"""Waits so many seconds; raises when the pod is to end."""


class Company(Protocol):
    """The ranks of a tuning, this one included."""

    rank: int

    def gather(self, divisor: int, wait: Wait, tell: Callable[[str], None]) -> Order | None:
        """Wait for all; the attempt that begins. None when there is nothing left to do."""

    def ended(self, code: int, said: str, wait: Wait) -> Ended:
        """This rank's part in the attempt is over; how the attempt ended."""

    def on_trouble(self, give_up: Callable[[], None] | None) -> None:
        """What ends this rank's part in the attempt, when that cannot go on."""

    def finish(self, wait: Wait) -> None:
        """All is done: let the others know."""


class Alone:
    """One pod."""

    rank = 0

    def gather(self, divisor: int, wait: Wait, tell: Callable[[str], None]) -> Order | None:
        """Nobody to wait for."""
        return Order(divisor=divisor)

    def ended(self, code: int, said: str, wait: Wait) -> Ended:
        """As it ended here."""
        return Ended(code, said=said)

    def on_trouble(self, give_up: Callable[[], None] | None) -> None:
        """Nobody gives trouble."""

    def finish(self, wait: Wait) -> None:
        """Nobody to tell."""


@contextmanager
def company_of(together: Together | None, settings: Settings) -> Iterator[Company]:
    """The company of this pod, as long as it lasts. Raises Failed for a pod that has no rank."""
    if together is None:
        yield Alone()
        return
    rank = rank_of(together.nodes, settings.pod_index, settings.hostname)
    member = Leader(together, settings) if rank == 0 else Follower(rank, together, settings.service_proxy)
    with member.at_work():
        yield member


@dataclass(slots=True)
class Leader:
    """Rank 0: hears the others and says what is done."""

    together: Together
    settings: Settings
    rank: int = 0
    _life: str = field(default_factory=lambda: uuid.uuid4().hex)
    _attempts: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _give_up: Callable[[], None] | None = None
    _gave_up: bool = False
    _muster: Muster = field(init=False)

    def __post_init__(self) -> None:
        """Nobody has come yet."""
        self._muster = Muster(self.together.nodes)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Answer the others, and look out for trouble."""
        server = _Server((self.settings.host, self.together.port), self._heard)
        over = threading.Event()
        threads = [
            threading.Thread(target=server.serve_forever, daemon=True),
            threading.Thread(target=self._look_out, args=(over,), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            server.shutdown()
            server.server_close()

    def _heard(self, report: Report) -> Order:
        with self._lock:
            return self._muster.heard(report, time.monotonic())

    def _look_out(self, over: threading.Event) -> None:
        while not over.wait(POLL_S):
            with self._lock:
                why, give_up = self._muster.trouble(time.monotonic()), self._give_up
                if why and give_up is not None:
                    self._give_up, self._gave_up = None, True
                    self._muster.call_off()
            if why and give_up is not None:
                say(f"{why}: all ranks go back to the last checkpoint")
                give_up()

    def gather(self, divisor: int, wait: Wait, tell: Callable[[str], None]) -> Order | None:
        """Wait until every rank is ready, and begin an attempt."""
        while True:
            with self._lock:
                missing = self._muster.missing(time.monotonic())
                if not missing:
                    order = self._order(divisor)
                    self._muster.begin(order)
                    self._gave_up = False
                    return order
            tell(waits_for(missing))
            wait(POLL_S)

    def _order(self, divisor: int) -> Order:
        self._attempts += 1
        address = self.settings.pod_address or self.settings.hostname
        return Order(attempt=f"{self._life}-{self._attempts}", address=address, port=_free_port(), divisor=divisor)

    def ended(self, code: int, said: str, wait: Wait) -> Ended:
        """Once every rank has ended its part or is lost. Of ranks that failed, the one counts for whose sake the
        others did."""
        with self._lock:
            if code != 0:
                if not self._gave_up:
                    self._muster.fail(Ended(code, 0, said))
                self._muster.call_off()
        while code != 0:
            with self._lock:
                now = time.monotonic()
                lost = self._muster.lost(now)
                if lost or not self._muster.missing(now):
                    break
            wait(POLL_S)
        if code == 0:
            return Ended(0)
        with self._lock:
            return replace(self._muster.culprit() or Ended(code, 0, said), is_lost=bool(lost))

    def on_trouble(self, give_up: Callable[[], None] | None) -> None:
        """What ends this rank's part in the attempt."""
        with self._lock:
            self._give_up = give_up

    def finish(self, wait: Wait) -> None:
        """Tell the others, for a moment: who does not hear it is ended by the Job."""
        with self._lock:
            self._muster.order = Order(is_done=True)
            told = time.monotonic()
        while time.monotonic() - told < LINGER_S:
            with self._lock:
                if all(peer.seen > told for peer in self._muster.peers.values()):
                    break
            wait(POLL_S / 4)
        wait(POLL_S / 4)  # The last answer has to get out.


@dataclass(slots=True)
class Follower:
    """Another rank: asks rank 0 again and again, in a thread of its own."""

    rank: int
    together: Together
    proxy: str = ""
    _life: str = field(default_factory=lambda: uuid.uuid4().hex)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _give_up: Callable[[], None] | None = None
    _gave_up: bool = False
    _report: Report = field(init=False)
    _order: Order | None = None
    """The last answer; None without one, or when it is old."""
    _answered: float = 0.0

    def __post_init__(self) -> None:
        """Not ready before `gather`."""
        self._report = Report(rank=self.rank, life=self._life, is_ready=False)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Keep asking."""
        over = threading.Event()
        thread = threading.Thread(target=self._keep_asking, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()

    def _keep_asking(self, over: threading.Event) -> None:
        while not over.wait(POLL_S):
            with self._lock:
                report = self._report
            order = asked(self.together, report, self.proxy)
            with self._lock:
                now = time.monotonic()
                if order is not None:
                    self._order, self._answered = order, now
                elif now - self._answered > SILENT_AFTER_S:
                    self._order = None
                trains = not self._report.is_ready and self._report.attempt != "" and self._report is report
                is_over = self._order is None or self._order.attempt != self._report.attempt
                give_up = self._give_up if trains and is_over else None
                if give_up is not None:
                    self._give_up, self._gave_up = None, True
            if give_up is not None:
                say("rank 0 has given the attempt up, or is lost: this rank goes back to the last checkpoint")
                give_up()

    def gather(self, divisor: int, wait: Wait, tell: Callable[[str], None]) -> Order | None:
        """Wait until rank 0 begins an attempt that this rank was not in."""
        say("waits for rank 0")
        with self._lock:
            self._report = self._report.model_copy(update={"is_ready": True})
        while True:
            with self._lock:
                order = self._order
                if order is not None and order.attempt and order.attempt != self._report.attempt:
                    update = {"is_ready": False, "attempt": order.attempt, "code": 0, "said": ""}
                    self._report = self._report.model_copy(update=update)
                    self._gave_up = False
                    return order
                if order is not None and order.is_done:
                    return None
            tell("Waits for rank 0.")
            wait(POLL_S)

    def ended(self, code: int, said: str, wait: Wait) -> Ended:
        """Said to rank 0, which decides."""
        with self._lock:
            update = {"is_ready": True, "code": 0 if self._gave_up else code, "said": said[:1000]}
            self._report = self._report.model_copy(update=update)
        return Ended(code, self.rank, said)

    def on_trouble(self, give_up: Callable[[], None] | None) -> None:
        """What ends this rank's part in the attempt."""
        with self._lock:
            self._give_up = give_up

    def finish(self, wait: Wait) -> None:
        """It was rank 0 that said so."""


def waits_for(ranks: list[int]) -> str:
    """Whom the training waits for, as a sentence."""
    return f"Waits for {'rank' if len(ranks) == 1 else 'ranks'} {', '.join(str(rank) for rank in ranks)}."


def asked(together: Together, report: Report, proxy: str) -> Order | None:
    """What rank 0 says; None when it does not answer. A proxy for the outer world would not know its name."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy} if proxy else {}))
    request = urllib.request.Request(
        f"http://{together.leader}:{together.port}/", report.model_dump_json().encode(), method="POST"
    )
    try:
        with opener.open(request, timeout=TIMEOUT_S) as response:
            return Order.model_validate_json(response.read(LONGEST_REPORT))
    except (OSError, ValueError, urllib.error.URLError):
        return None


def _free_port() -> int:
    """A port that nobody listens on: each attempt meets at its own, where no earlier one left anything."""
    with socket.create_server(("", 0)) as probe:
        return int(probe.getsockname()[1])


class _Server(http.server.ThreadingHTTPServer):
    """Hears reports and answers with orders."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], heard: Callable[[Report], Order]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.heard = heard
        super().__init__(address, _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    """One report."""

    server: _Server
    timeout = TIMEOUT_S

    def do_POST(self) -> None:
        """Answer with the order."""
        length = self.headers.get("Content-Length") or ""
        if not length.isdigit() or int(length) > LONGEST_REPORT:
            self.send_error(413)
            return
        try:
            order = self.server.heard(Report.model_validate_json(self.rfile.read(int(length))))
        except (ValidationError, ValueError):
            self.send_error(400)
            return
        body = order.model_dump_json().encode()
        with contextlib.suppress(OSError):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Not a line for each question."""
