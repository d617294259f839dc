# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The operator's process: `python -m kaito.operator`. Reads flags and environment, runs the app, ends on SIGTERM.

A mistake of the user's ends it with one sentence on standard error and exit code 2, a cluster that cannot be used with
exit code 1, SIGTERM and SIGINT with 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence

from kaito.kube.config import ClusterConfig, ConfigError, in_cluster, load_kubeconfig
from kaito.kube.controller import COLLECT_AT
from kaito.kube.errors import ApiError
from kaito.kube.lease import LostLeadership
from kaito.operator.app import CannotStart, run
from kaito.operator.flags import given
from kaito.operator.logs import set_up
from kaito.operator.settings import BadSettings, Settings

try:
    import uvloop
except ModuleNotFoundError:
    uvloop = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the operator; the exit code."""
    try:
        asked = given(sys.argv[1:] if arguments is None else arguments, os.environ)
        settings = asked.settings
        config = _login(settings)
    except (BadSettings, ConfigError) as error:
        return _failed(str(error), 2)
    set_up(settings.log_level, settings.log_format)
    for note in asked.notes:
        logging.getLogger(__name__).warning("%s", note)
    gc.set_threshold(*COLLECT_AT)
    gc.freeze()  # what is loaded stays until the end
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if uvloop else None) as runner:
            runner.run(_until_told(settings, config))
    except (CannotStart, LostLeadership, ApiError) as error:
        return _failed(str(error), 1)
    return 0


def _login(settings: Settings) -> ClusterConfig:
    return load_kubeconfig(settings.kubeconfig) if settings.kubeconfig else in_cluster()


async def _until_told(settings: Settings, config: ClusterConfig) -> None:
    """Run until SIGTERM or SIGINT, which end the app in order."""
    work = asyncio.ensure_future(run(settings, config))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await work


def _failed(message: str, code: int) -> int:
    sys.stderr.write(f"kaito-operator: {message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
