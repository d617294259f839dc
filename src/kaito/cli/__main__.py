# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Entry of the `kaito` command. Loads nothing before it has said what Ctrl-C does meanwhile: it ends the command.

Without that, half a second of imports would answer a Ctrl-C with a traceback; hence the import by name.
"""

from __future__ import annotations

import importlib
import signal


def main() -> None:
    """Load the command line and run it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    importlib.import_module("kaito.cli.main").main()


if __name__ == "__main__":
    main()
