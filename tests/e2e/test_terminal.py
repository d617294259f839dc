# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a person does at a terminal: Ctrl-C at any moment, closing the window, typing a command twice."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.machine import KAITO, REPOSITORY, Machine, eventually, kill_9, pids_below, processes_below

pytestmark = pytest.mark.slow


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, machine: Machine, *arguments: str) -> None:
        self.machine = machine
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execve(KAITO, [KAITO, *arguments], {**machine.env, "TERM": "xterm", "COLUMNS": "200"})
        os.set_blocking(self.master, False)
        self._text = ""

    @property
    def text(self) -> str:
        """What the command wrote so far."""
        try:
            while piece := os.read(self.master, 65536):
                self._text += piece.decode(errors="replace")
        except OSError:
            pass
        return self._text

    def press_ctrl_c(self) -> None:
        """As the terminal does it: to everything in the foreground."""
        os.write(self.master, b"\x03")

    def close(self) -> None:
        """The window is closed."""
        os.close(self.master)

    def exit_code(self, *, within: float = 40) -> int:
        """How the command ended."""
        deadline = time.monotonic() + within
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, f"still running; it wrote:\n{self.text}"
            time.sleep(0.05)


@pytest.fixture
def own(cache: Path, tmp_path: Path) -> Iterator[Machine]:
    """A machine that is not up; nothing of it is left behind."""
    machine = Machine(tmp_path, cache=cache)
    machine.env["TMPDIR"] = str(tmp_path / "tmp")
    (tmp_path / "tmp").mkdir()
    yield machine
    eventually(lambda: processes_below(tmp_path) == [], within=20, what=f"nothing left in {processes_below(tmp_path)}")


def up(machine: Machine, *arguments: str) -> Terminal:
    return Terminal(machine, "up", "--kubeconfig", str(machine.kubeconfig), *arguments)


@pytest.mark.parametrize("moment", [0.5, 1.2, 1.8, 2.6])
@pytest.mark.parametrize("detach", [(), ("--detach",)], ids=["foreground", "detach"])
def test_ctrl_c_while_starting_leaves_nothing(own: Machine, moment: float, detach: tuple[str, ...]) -> None:
    terminal = up(own, *detach)
    time.sleep(moment)
    was_up = "export KUBECONFIG" in terminal.text
    terminal.press_ctrl_c()
    terminal.exit_code()
    assert "Traceback" not in terminal.text
    if detach and was_up:
        own.down()
    assert processes_below(own.folder) == []


@pytest.mark.parametrize("how", ["Ctrl-C", "window closed", "kaito down elsewhere"])
def test_the_live_view_ends_with_everything_in_the_middle_of_loading_a_model(own: Machine, how: str) -> None:
    terminal = up(own)
    eventually(lambda: "Ctrl-C stops" in terminal.text, within=40, what="up")
    own.kubectl("apply", "-f", str(REPOSITORY / "examples" / "quickstart.yaml"))
    eventually(lambda: bool(pids_below(own.folder, "guard.py")), within=20, what="a model server starts")
    match how:
        case "Ctrl-C":
            terminal.press_ctrl_c()
        case "window closed":
            terminal.close()
        case _:
            own.down()
    terminal.exit_code()
    assert processes_below(own.folder) == []
    if how != "window closed":
        assert "Your objects are kept" in terminal.text and "Traceback" not in terminal.text
        own.up()
        assert own.workspace("demo")
        own.down()


@pytest.mark.parametrize(("moment", "number"), [(0.7, signal.SIGINT), (4.0, signal.SIGINT), (4.0, signal.SIGTERM)])
def test_an_interrupted_demo_leaves_nothing(own: Machine, moment: float, number: int) -> None:
    terminal = Terminal(own, "demo")
    time.sleep(moment)
    if number == signal.SIGINT:
        terminal.press_ctrl_c()
    else:
        os.kill(terminal.pid, number)
    assert terminal.exit_code() in (130, -signal.SIGINT)
    assert "Traceback" not in terminal.text
    assert list((own.folder / "tmp").iterdir()) == []


def test_an_interrupted_training_leaves_nothing(own: Machine) -> None:
    own.env["XDG_CACHE_HOME"] = str(own.folder / "empty")
    terminal = Terminal(own, "demo")
    eventually(lambda: bool(pids_below(own.folder, "demo_train")), within=20, what="training")
    terminal.press_ctrl_c()
    assert terminal.exit_code() in (130, -signal.SIGINT)
    assert "Traceback" not in terminal.text
    eventually(lambda: processes_below(own.folder) == [], within=5, what="the training ended")
    assert not [path for path in (own.folder / "empty").rglob("*") if "demo" in path.name]


def test_two_kaito_up_at_the_same_time_are_one(own: Machine) -> None:
    argv = [KAITO, "up", "--detach", "--kubeconfig", str(own.kubeconfig)]
    both = [subprocess.Popen(argv, env=own.env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("was up already" in text for text in printed) == [False, True]
    assert len(pids_below(own.folder, "-m kaito.cli.supervisor")) == 1
    own.down()


def test_two_machines_side_by_side_do_not_meet(own: Machine, cache: Path, tmp_path: Path) -> None:
    other = Machine(tmp_path / "other", cache=cache)
    own.up()
    other.up()
    own.kubectl("create", "configmap", "mine")
    assert other.kubectl("get", "configmap", "mine", check=False).returncode != 0
    other.down()
    assert own.kubectl("get", "configmap", "mine").returncode == 0
    own.down()


def test_a_kubeconfig_of_somebody_else_is_not_overwritten(own: Machine) -> None:
    theirs = "apiVersion: v1\nkind: Config\nclusters: [{name: work, cluster: {server: https://x}}]\n"
    own.kubeconfig.write_text(theirs)
    done = own.kaito("up", "--detach", "--kubeconfig", str(own.kubeconfig), check=False)
    assert done.returncode == 1
    assert "Choose another --kubeconfig" in done.stderr
    assert own.kubeconfig.read_text() == theirs


def test_a_killed_view_takes_everything_along(own: Machine) -> None:
    terminal = up(own)
    eventually(lambda: "Ctrl-C stops" in terminal.text, within=40, what="up")
    kill_9(terminal.pid)
    terminal.exit_code()
    eventually(lambda: processes_below(own.folder) == [], within=20, what="everything stopped")
