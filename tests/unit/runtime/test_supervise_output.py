# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What of an engine's output reaches `kaito logs`."""

from __future__ import annotations

import pytest

from kaito.runtime.serve.supervise import is_health_check


@pytest.mark.parametrize(
    ("line", "dropped"),
    [
        (b'INFO:     127.0.0.1:46696 - "GET /health HTTP/1.1" 200 OK\n', True),
        (b'INFO:     127.0.0.1:46696 - "GET /health HTTP/1.1" 503 Service Unavailable\n', False),
        (b'INFO:     127.0.0.1:46696 - "POST /v1/chat/completions HTTP/1.1" 200 OK\n', False),
        (b"Loading weights\n", False),
    ],
)
def test_probes_that_went_well_are_left_out(line: bytes, dropped: bool) -> None:
    assert is_health_check(line) is dropped
