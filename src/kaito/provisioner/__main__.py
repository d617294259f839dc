# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The provisioner's process: `python -m kaito.provisioner`. Reads flags and environment, runs the app, ends on SIGTERM.

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
from asyncio import sslproto
from collections.abc import Sequence

from kaito.kube.config import ClusterConfig, ConfigError, in_cluster, load_kubeconfig
from kaito.kube.controller import COLLECT_AT
from kaito.kube.errors import ApiError
from kaito.kube.lease import LostLeadership
from kaito.provisioner.app import CannotStart, run
from kaito.provisioner.settings import BadSettings, Settings, parse

# asyncio reads into a buffer of 256 KiB for each connection with TLS, and a dozen are open, most of them for a watch
# that says little. (uvloop, which the operator runs on, has no such choice, and little work is done here.)
sslproto.SSLProtocol.max_size = 32 * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the provisioner; the exit code."""
    try:
        settings = parse(sys.argv[1:] if arguments is None else arguments, os.environ)
        config = _login(settings)
    except (BadSettings, ConfigError) as error:
        return _failed(str(error), 2)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    gc.set_threshold(*COLLECT_AT)
    gc.freeze()  # what is loaded stays until the end
    try:
        asyncio.run(_until_told(settings, config))
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
    sys.stderr.write(f"kaito.provisioner: {message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
