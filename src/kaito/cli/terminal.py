# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How a command takes the signals that want it to end: it cleans up first, also when its terminal is gone."""

from __future__ import annotations

import os
import signal
from types import FrameType


def end_in_order() -> None:
    """Make SIGTERM and SIGHUP a KeyboardInterrupt, as Ctrl-C is; a SIGHUP that is ignored (nohup) stays so."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGHUP:
        let_go()
    raise KeyboardInterrupt


def let_go() -> None:
    """Write to nowhere from now on: a terminal that is gone would make each line of the clean-up an error."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
