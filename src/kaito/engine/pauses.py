# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""When Python's cycle collector may stop the engine.

A full collection looks at everything that the controllers keep of every object: tens of milliseconds, during which no
request is answered, and under load Python would begin one after the other. Nearly nothing here is in a cycle, so full
collections wait until the engine has little to do; only if that does not come for a long time is one begun anyway, so
that what cycles there are do not pile up.
"""

from __future__ import annotations

import asyncio
import gc
import time

COLLECT_AT = (2_000, 2, 1_000_000)
"""For `gc.set_threshold`: young values are looked at in helpings of a millisecond, and old ones never by themselves."""
LOOK_EVERY_S = 5.0
QUIET_SHARE = 0.1
"""The share of a core below which the engine counts as having little to do."""
LONGEST_S = 600.0
"""How long a full collection may be put off."""


def is_due(*, grown: int, used_s: float, passed_s: float, waited_s: float) -> bool:
    """Whether a full collection is to be done now.

    `grown`: how often values have become old since the last one. `used_s`: processor time in the last `passed_s`.
    """
    if not grown:
        return False
    return used_s < QUIET_SHARE * passed_s or waited_s >= LONGEST_S


async def collect_when_quiet() -> None:
    """Take over Python's full collections until cancelled."""
    gc.set_threshold(*COLLECT_AT)
    gc.freeze()  # what is loaded now stays until the end
    last = looked = time.monotonic()
    used = time.process_time()
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        now, now_used = time.monotonic(), time.process_time()
        grown = gc.get_count()[2]
        if is_due(grown=grown, used_s=now_used - used, passed_s=now - looked, waited_s=now - last):
            gc.collect()
            last = time.monotonic()
        elif not grown:
            last = now
        looked, used = now, now_used
