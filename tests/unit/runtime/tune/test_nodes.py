# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A tuning over several pods: who is waited for, when an attempt is over, and what the ranks hear of each other."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from kaito.api.contracts import ModelSource, Together, TuneConfig
from kaito.runtime.failure import Failed
from kaito.runtime.settings import Settings
from kaito.runtime.tune.app import code_of, died, last_words, worker_command
from kaito.runtime.tune.job import FAILED, FAILURE, OUT_OF_MEMORY, SHORT_OF_MEMORY
from kaito.runtime.tune.meeting import Alone, Company, asked, company_of, waits_for
from kaito.runtime.tune.ranks import SILENT_AFTER_S, Ended, Muster, Order, Report, rank_of
from tests.engine_process import free_port

LAUNCHER = """
Failures:
[1]:
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 4710)
Root Cause (first observed failure):
[0]:
  rank      : 1 (local_rank: 0)
  exitcode  : -9 (pid: 4711)
""".splitlines()


def config(processes: int = 1, together: Together | None = None) -> TuneConfig:
    return TuneConfig(
        workspace="demo", namespace="default", device="cpu", processes=processes, model=ModelSource(id="org/name"),
        method="lora", together=together,
    )  # fmt: skip


def report(rank: int = 1, life: str = "a", attempt: str = "", *, ready: bool = True, code: int = 0) -> Report:
    return Report(rank=rank, life=life, attempt=attempt, is_ready=ready, code=code)


def begun() -> Muster:
    """Three ranks in an attempt."""
    muster = Muster(3)
    for rank in (1, 2):
        muster.heard(report(rank), 0.0)
    assert muster.missing(0.0) == []
    muster.begin(Order(attempt="one"))
    for rank in (1, 2):
        muster.heard(report(rank, attempt="one", ready=False), 1.0)
    return muster


def test_an_attempt_waits_for_ranks_that_are_there_and_ready() -> None:
    muster = Muster(4)
    muster.heard(report(1), 0.0)
    muster.heard(report(2, ready=False), 0.0)
    assert muster.missing(1.0) == [2, 3]
    assert muster.missing(SILENT_AFTER_S + 1) == [1, 2, 3]
    with pytest.raises(ValueError, match="no rank 4"):
        muster.heard(report(4), 0.0)


@pytest.mark.parametrize(
    ("said", "now", "trouble"),
    [
        (report(2, attempt="one", ready=False), 2.0, ""),
        (report(2, attempt="one"), 2.0, ""),
        (report(2, attempt="one", code=-9), 2.0, "rank 2 has ended with code -9"),
        (report(2, life="b"), 2.0, "rank 2 is lost"),
        (report(2, attempt="one", ready=False), SILENT_AFTER_S + 2, "rank 1 is lost"),
    ],
)
def test_an_attempt_is_over_when_a_rank_fails_or_is_lost(said: Report, now: float, trouble: str) -> None:
    muster = begun()
    muster.heard(said, now)
    assert muster.trouble(now) == trouble


def test_the_rank_is_told_of_that_the_others_end_for() -> None:
    muster = begun()
    muster.fail(Ended(1, 0, "RuntimeError: [gloo] Connection closed by peer [10.0.0.8]:4242"))
    muster.call_off()
    muster.heard(report(1, attempt="one"), 2.0)
    muster.heard(report(2, attempt="one", code=-6), 2.0)
    muster.heard(report(2, attempt="one", code=-7), 2.0)
    assert muster.culprit() == Ended(-6, 2)
    assert muster.heard(report(1), 3.0) == Order()


def test_a_rank_is_the_index_of_the_pod() -> None:
    assert rank_of(3, "2", "demo-2") == 2
    for index in ("3", None, "x"):
        with pytest.raises(Failed) as told:
            rank_of(3, index, "demo-9")
        assert "3 pods" in told.value.failure.message


def test_one_process_of_one_pod_needs_no_launcher() -> None:
    order = Order(attempt="x-1", address="10.0.0.7", port=4242)
    assert "torch.distributed.run" not in worker_command(config(), 0, order, Path("job"))
    assert "--standalone" in worker_command(config(4), 0, order, Path("job"))
    words = worker_command(config(4, Together(nodes=2, leader="demo-0")), 1, order, Path("job"))
    assert {"--nnodes=2", "--node-rank=1", "--nproc-per-node=4", "--rdzv-id=x-1", "--master-addr=10.0.0.7"} <= set(
        words
    )
    assert {"--master-port=4242", "--max-restarts=0"} <= set(words)


def test_what_a_worker_ended_with_is_known_behind_the_launcher(tmp_path: Path) -> None:
    state = tmp_path
    assert [code_of(code, LAUNCHER, state) for code in (0, 1, 143)] == [0, -9, 143]
    (state / SHORT_OF_MEMORY).touch()
    assert code_of(1, LAUNCHER, state) == OUT_OF_MEMORY
    (state / FAILURE).touch()
    assert code_of(1, LAUNCHER, state) == FAILED


def test_who_dies_again_and_again_is_named() -> None:
    lines = ["[rank1]: RuntimeError: no such thing", "E1127 torch/elastic: Error in the launcher"]
    failed = died(Ended(1, rank=1, said=last_words(lines)), True)
    assert failed.failure.message.startswith(
        "The training process of rank 1 ended with code 1 3 times: [rank1]: Runtime"
    )
    assert "for using too much memory" in died(Ended(-9), False).failure.message


def test_those_who_are_waited_for_are_named() -> None:
    assert (waits_for([1]), waits_for([1, 2])) == ("Waits for rank 1.", "Waits for ranks 1, 2.")


class Rank(threading.Thread):
    """A rank that takes part in attempts; what it does in each is said by `acts`."""

    def __init__(self, company: Company, acts: list[Callable[[threading.Event], int]]) -> None:
        super().__init__(daemon=True)
        self.company, self.acts = company, acts
        self.orders: list[Order | None] = []
        self.ends: list[Ended] = []

    def run(self) -> None:
        for act in self.acts:
            order = self.company.gather(1, time.sleep, lambda note: None)
            self.orders.append(order)
            if order is None:
                return
            over = threading.Event()
            self.company.on_trouble(over.set)
            code = act(over)
            self.company.on_trouble(None)
            self.ends.append(self.company.ended(code, "why", time.sleep))
        if self.company.rank == 0:
            self.company.finish(time.sleep)
        else:
            self.orders.append(self.company.gather(1, time.sleep, lambda note: None))


def given_up(over: threading.Event) -> int:
    assert over.wait(20), "nobody gave the attempt up"
    return -9


def test_ranks_meet_fail_meet_again_and_finish_together() -> None:
    together = Together(nodes=2, leader="127.0.0.1", port=free_port())
    leader_settings = Settings(host="127.0.0.1", pod_index="0", pod_address="127.0.0.1", hostname="demo-0")
    other_settings = Settings(pod_index="1", hostname="demo-1")
    with ExitStack() as stack:
        leader = stack.enter_context(company_of(together, leader_settings))
        other = stack.enter_context(company_of(together, other_settings))
        both = threading.Barrier(2, timeout=20)
        first = Rank(leader, [given_up, lambda over: both.wait() * 0])
        second = Rank(other, [lambda over: 7, lambda over: both.wait() * 0])
        for rank in (first, second):
            rank.start()
        for rank in (first, second):
            rank.join(40)
            assert not rank.is_alive()
    assert first.ends == [Ended(7, 1, "why"), Ended(0)]
    attempts = [order.attempt for order in first.orders if order is not None]
    assert len(set(attempts)) == 2
    assert second.orders == [*first.orders, None], "the second hears of the same attempts, and that all is done"


def test_what_is_no_report_is_refused() -> None:
    together = Together(nodes=2, leader="127.0.0.1", port=free_port())
    with company_of(together, Settings(host="127.0.0.1", pod_index="0", hostname="demo-0")):
        for body in (b"{}", b'{"rank":5,"life":"x","is_ready":true}'):
            request = urllib.request.Request(f"http://127.0.0.1:{together.port}/", body, method="POST")
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(request, timeout=5)
        assert asked(together, report(), "") == Order()


def test_one_pod_waits_for_nobody() -> None:
    with company_of(None, Settings()) as company:
        assert isinstance(company, Alone)
        assert company.gather(2, time.sleep, lambda note: None) == Order(divisor=2)
        assert company.ended(-9, "why", time.sleep) == Ended(-9, said="why")
