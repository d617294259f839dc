# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m kaito.engine`: run an engine in the foreground until SIGTERM or SIGINT.

SIGTERM and SIGINT leave the pods running, so that the next engine on the same folder takes them over; SIGQUIT ends them
too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

import uvloop

from kaito.engine.app import Engine
from kaito.engine.http.listener import CannotListen
from kaito.engine.node.images import ImageFileError
from kaito.engine.pauses import collect_when_quiet
from kaito.engine.settings import Settings, parse_settings
from kaito.engine.storage.journal import AlreadyRunning

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


async def run(settings: Settings) -> int:
    """Run until a signal; returns the exit status."""
    stopping: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()

    def stop(number: signal.Signals) -> None:
        if not stopping.done():
            stopping.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    engine = Engine(settings, environment=os.environ)
    received = signal.SIGTERM
    try:
        await engine.start()
        collecting = asyncio.create_task(collect_when_quiet(), name="collecting")
        sys.stderr.write(f"engine ready at {engine.url}; kubeconfig: {settings.kubeconfig_path}\n")
        received = await stopping
        collecting.cancel()
    except (AlreadyRunning, CannotListen, ImageFileError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        await engine.stop(kill_pods=received == signal.SIGQUIT)
    return 0


def main() -> int:
    """Parse the command line and run; returns the exit status."""
    settings = parse_settings(sys.argv[1:])
    logging.basicConfig(level=settings.log_level, format=FORMAT, stream=sys.stderr)
    status: int = uvloop.run(run(settings))
    return status


if __name__ == "__main__":
    sys.exit(main())
