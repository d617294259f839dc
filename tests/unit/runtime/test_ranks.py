# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A model over several pods: ranks, what each engine is told, and how a lost rank is noticed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from kaito.api.contracts import ModelSource, Parallelism, ServeConfig
from kaito.runtime.failure import Failed
from kaito.runtime.serve import vllm
from kaito.runtime.serve.front import Front
from kaito.runtime.serve.launch import Facts
from kaito.runtime.serve.peers import keep_company
from kaito.runtime.serve.ranks import MEET_WITHIN_S, SILENT_AFTER_S, Company, rank_of, rank_options
from kaito.runtime.serve.state import READY, ServingState
from kaito.runtime.serve.wire import Listener

FACTS = Facts("/weights/org/name", local=True, python="python", socket="/run/engine.sock")


def spread(**changes: Any) -> ServeConfig:
    given: dict[str, Any] = {
        "workspace": "demo",
        "namespace": "default",
        "engine": "vllm",
        "device": "cuda",
        "model": ModelSource(id="org/name"),
        "served_model_name": "name",
        "parallelism": Parallelism(tensor=4, pipeline=2),
        "nodes": 2,
        "peers": ("demo-0.demo-headless.default.svc", "demo-1.demo-headless.default.svc"),
    }
    return ServeConfig(**{**given, **changes})


@pytest.mark.parametrize(
    ("index", "hostname", "rank"), [("1", "demo-0", 1), (None, "demo-1", 1), ("", "my-demo-0", 0), ("0", "", 0)]
)
def test_a_pods_index_is_its_rank(index: str | None, hostname: str, rank: int) -> None:
    assert rank_of(spread(), index, hostname) == rank


@pytest.mark.parametrize(("index", "hostname"), [(None, "demo"), ("2", "demo-2"), (None, "demo-12"), ("x", "demo")])
def test_a_pod_without_a_rank_is_told_so(index: str | None, hostname: str) -> None:
    with pytest.raises(Failed, match="spread over 2 pods"):
        rank_of(spread(), index, hostname)


def test_the_leader_has_the_api_and_the_others_compute() -> None:
    leader = vllm.launch(spread(), FACTS).argv
    other = vllm.launch(spread(), replace(FACTS, rank=1)).argv
    both = ["--master-addr", "demo-0.demo-headless.default.svc", "--master-port", "29500"]
    for argv, rank in ((leader, "0"), (other, "1")):
        words = list(argv)
        at = words.index("--master-addr")
        assert words[at : at + 4] == both
        assert words[words.index("--node-rank") + 1] == rank and words[words.index("--nnodes") + 1] == "2"
        assert words[words.index("--pipeline-parallel-size") + 1] == "2"
    assert "--uds" in leader and "--headless" not in leader
    assert "--uds" not in other and "--headless" in other
    assert rank_options(spread(nodes=1, peers=()), 0) == {}


def test_a_rank_is_lost_when_it_is_silent_or_starts_again() -> None:
    company = Company((1,), 0.0)
    assert company.heard(1, None, 100.0) is None, "it may still be on its way"
    assert "has not come" in str(Company((1,), 0.0).heard(1, None, MEET_WITHIN_S + 1))
    assert company.heard(1, {"life": "a", "status": "starting"}, 200.0) is None
    assert company.heard(1, None, 200.0 + SILENT_AFTER_S) is None
    assert company.heard(1, {"life": "a"}, 240.0) is None
    assert "silent" in str(company.heard(1, None, 241.0 + SILENT_AFTER_S))
    assert "started again" in str(company.heard(1, {"life": "b"}, 250.0))


async def test_a_rank_that_starts_again_ends_its_company() -> None:
    listeners = []
    port = 0
    for _ in range(2):
        state = ServingState("vllm", time.monotonic)
        state.enter(READY)
        listener = Listener(Front(state))
        await listener.open("127.0.0.1", port)
        port = listener.port
        listeners.append(listener)
        if len(listeners) == 1:
            config = spread(port=port, peers=("127.0.0.1", "127.0.0.1"))
            watching = asyncio.create_task(keep_company(config, 0, time.monotonic, poll_s=0.02))
            await asyncio.sleep(0.2)
            assert not watching.done()
            await listener.close(within_s=0.1)
    with pytest.raises(Failed, match="Rank 1 has started again"):
        await asyncio.wait_for(watching, 5)
    await listeners[1].close(within_s=0.1)
