# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Takes the terminal on its standard input as controlling terminal and becomes the command in its arguments.

Run as a script of its own by `kaito.engine.node.execution`; the caller has started a new session. Standard library
only.
"""

from __future__ import annotations

import fcntl
import os
import sys
import termios


def main(argv: list[str]) -> int:
    """Never returns when the command exists; else says why it cannot be run, with the exit code of a shell."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    try:
        os.execvp(argv[1], argv[1:])
    except OSError as error:
        sys.stderr.write(f"exec {argv[1]!r} failed: {error.strerror}\r\n")
        return 127 if isinstance(error, FileNotFoundError) else 126


if __name__ == "__main__":
    sys.exit(main(sys.argv))
