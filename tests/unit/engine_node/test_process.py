# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Real processes under the shim: output, input, ends, adoption, and commands beside them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kaito.engine.node import execution, process
from kaito.engine.node.attach import AttachSession
from kaito.engine.stream import NodeError, Streams

ENV = {"PATH": os.defpath}
Starter = Callable[..., Awaitable[Path]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Starter]:
    """Starts a container's process; whatever still runs at the end of the test is killed."""
    folders: list[Path] = []

    async def run(*argv: str, **how: Any) -> Path:
        folder = tmp_path / str(len(folders))
        folders.append(folder)
        await process.start(folder, process.Launch(argv, ENV, str(tmp_path), **how))
        return folder

    yield run
    for folder in folders:
        if process.running(folder) is not None:
            await process.stop(folder, 0)


def attach(folder: Path, *, tty: bool = False) -> AttachSession:
    return AttachSession(
        folder,
        lambda: process.ended(folder) is not None,
        Streams(stdin=True, tty=tty),
        from_start=True,
        closes_input=True,
        left=lambda: None,
    )


async def all_of(session: AttachSession | execution.ExecSession) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    while (piece := await session.read()) is not None:
        found[piece[0]] = found.get(piece[0], b"") + piece[1]
    return found


async def test_output_and_exit_code_are_kept(start: Starter) -> None:
    folder = await start("sh", "-c", "echo out; echo err >&2; printf no-newline; exit 3")
    end = await process.wait(folder)
    assert end.exit_code == 3
    lines = [line.split(" ", 1)[1] for line in (folder / "log").read_text().splitlines()]
    assert sorted(lines) == ["stderr F err", "stdout F out", "stdout P no-newline"]


async def test_a_program_that_is_not_there_is_named(start: Starter) -> None:
    end = process.ended(await start("no-such-program"))
    assert end is not None
    assert (end.exit_code, end.start_error) == (127, '"no-such-program": No such file or directory')


async def test_input_reaches_the_process_and_its_end_too(start: Starter) -> None:
    folder = await start("cat", stdin=True)
    session, data = attach(folder), os.urandom(200_000) + b"\n\n"
    feeding = asyncio.create_task(session.write(data))
    feeding.add_done_callback(lambda _: closing.append(asyncio.create_task(session.close_stdin())))
    closing: list[asyncio.Task[None]] = []
    assert (await all_of(session))["stdout"] == data
    assert (await process.wait(folder)).exit_code == 0
    await session.close()


async def test_a_terminal_has_a_size_and_a_shell_answers(start: Starter) -> None:
    folder = await start("sh", stdin=True, tty=True)
    session = attach(folder, tty=True)
    await session.resize(123, 45)
    await session.write(b"stty size; exit 4\n")
    assert b"45 123\r\n" in (await all_of(session))["stdout"]
    assert (await process.wait(folder)).exit_code == 4
    await session.close()


async def test_a_client_that_comes_after_the_end_still_sees_everything(start: Starter) -> None:
    folder = await start("sh", "-c", "echo answer", stdin=True)
    await process.wait(folder)
    session = attach(folder)
    assert await all_of(session) == {"stdout": b"answer\n"}
    assert await session.exit_code() == 0
    await session.close()


async def test_what_the_first_process_leaves_behind_is_killed(start: Starter) -> None:
    folder = await start("sh", "-c", "setsid sleep 60 & echo $!; exit 0")
    await process.wait(folder)
    left = int((folder / "log").read_text().split()[-1])
    assert not process.is_alive(left, "")


async def test_stopping_asks_first_and_kills_after_the_grace(start: Starter) -> None:
    polite = await start("sleep", "60")
    assert (await process.stop(polite, 5)).signal == signal.SIGTERM
    stubborn = await start("sh", "-c", "trap '' TERM; echo; while :; do sleep 60; done")
    while not (stubborn / "log").read_text():
        await asyncio.sleep(0.01)
    end = await process.stop(stubborn, 0.1)
    assert (end.exit_code, end.signal) == (137, signal.SIGKILL)


async def test_the_death_of_the_shim_takes_the_process_along_and_is_noticed(start: Starter) -> None:
    folder = await start("sleep", "60")
    what = process.running(folder)
    assert what is not None
    os.kill(what.shim_pid, signal.SIGKILL)
    assert (await process.wait(folder)).exit_code == 137
    assert process.ended(folder) is not None


async def test_a_later_process_with_the_same_number_is_not_ours(start: Starter) -> None:
    what = process.running(await start("sleep", "60"))
    assert what is not None
    assert process.is_alive(what.pid, what.start)
    assert not process.is_alive(what.pid, str(int(what.start) + 1))


async def test_a_command_beside_the_container_has_its_environment(start: Starter) -> None:
    folder = await start("sleep", "60")
    launch = process.launch_of(folder)
    assert launch is not None
    session = await execution.start(
        folder, launch, ["sh", "-c", "pwd; read a; echo got $a >&2; exit 7"], Streams(stdin=True)
    )
    await session.write(b"this\n")
    assert await all_of(session) == {"stdout": f"{launch.cwd}\n".encode(), "stderr": b"got this\n"}
    assert await session.exit_code() == 7
    await session.close()


async def test_a_command_may_have_a_terminal(start: Starter) -> None:
    folder = await start("sleep", "60")
    launch = process.launch_of(folder)
    assert launch is not None
    session = await execution.start(folder, launch, ["sh", "-c", "tty"], Streams(tty=True, stdin=True))
    assert (await all_of(session))["stdout"].startswith(b"/dev/")
    await session.close()


async def test_what_a_command_leaves_in_the_background_does_not_hold_the_client(start: Starter) -> None:
    folder = await start("sleep", "60")
    launch = process.launch_of(folder)
    assert launch is not None
    session = await execution.start(folder, launch, ["sh", "-c", "sleep 60 & echo done"], Streams())
    assert await all_of(session) == {"stdout": b"done\n"}
    await session.close()


async def test_a_command_that_is_not_there_is_an_error_of_the_node(start: Starter) -> None:
    folder = await start("sleep", "60")
    launch = process.launch_of(folder)
    assert launch is not None
    with pytest.raises(NodeError, match="exec 'nothing' failed: No such file"):
        await execution.start(folder, launch, ["nothing"], Streams())
    assert not list((folder / process.BESIDE).iterdir())


async def test_a_command_that_takes_too_long_is_killed(start: Starter) -> None:
    folder = await start("sleep", "60")
    launch = process.launch_of(folder)
    assert launch is not None
    assert await execution.run(folder, launch, ["sh", "-c", "echo out; exit 3"], 5) == (3, "out")
    with pytest.raises(TimeoutError):
        await execution.run(folder, launch, ["sleep", "60"], 0.1)
