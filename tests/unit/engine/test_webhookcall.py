# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What calling a webhook costs: a handshake once, not once a call."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest

from kaito.engine.objects.webhookcall import CallFailed, _tls
from kaito.kube.certificates import new_authority

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def bundle(name: str) -> str:
    return base64.b64encode(new_authority(name, NOW).cert_pem.encode()).decode()


def test_one_bundle_is_one_context_so_that_connections_are_kept() -> None:
    ours, other = bundle("ours"), bundle("other")
    assert _tls({"caBundle": ours}) is _tls({"caBundle": ours, "url": "https://elsewhere/"})
    assert _tls({"caBundle": ours}) is not _tls({"caBundle": other})


@pytest.mark.parametrize("wrong", ["%", base64.b64encode(b"no certificate").decode()])
def test_a_bundle_that_holds_no_certificate_is_named_as_the_reason(wrong: str) -> None:
    with pytest.raises(CallFailed, match="unable to load root certificates"):
        _tls({"caBundle": wrong})
