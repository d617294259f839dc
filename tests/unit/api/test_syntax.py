# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How names, labels, images, addresses and numbers are written."""

from __future__ import annotations

import pytest

from kaito.api import syntax

CASES = [
    (syntax.dns_label, ["a", "a-b", "0", "a" * 63], ["", "A", "-a", "a-", "a.b", "a_b", "a" * 64, "a\n"]),
    (syntax.dns_subdomain, ["a", "a.b-c.d"], ["", "a..b", ".a", "a.", "A.b", "a" * 254]),
    (
        syntax.label_key,
        ["a", "A_b.c", "kaito.sh/workspace", "a" * 63],
        ["", "/a", "a/", "a/b/c", "a b", "A/b", "a" * 64],
    ),
    (syntax.label_value, ["", "a", "A_b.c-d", "a" * 63], ["a b", "-a", "a/b", "a" * 64]),
    (
        syntax.image,
        [
            "alpine",
            "library/alpine:3",
            "localhost:5000/a/b",
            "a.b/c@sha256:" + "0" * 64,
            "ACR_REPO_HERE.azurecr.io/ADAPTER_HERE:0.0.1",
        ],
        ["", " a", "a b", "a:", "a//b", "a:b:c", "https://a/b", "a@sha256:12", "$(id)"],
    ),
    (syntax.strength, ["0", "1", "0.5", "1.0", "1e-1"], ["", "-0.1", "1.1", "half", "nan", "inf", "0,5"]),
    (
        syntax.public_url,
        ["https://example.com", "http://example.com:8080/a?b=c", "HTTPS://EXAMPLE.COM/x", "https://93.184.215.14/a"],
        [
            "",
            "example.com/a",
            "/a",
            "ftp://example.com/a",
            "file:///etc/passwd",
            "http://",
            "http://example.com:99999/",
            "http://[::1/",
            "http://localhost/a",
            "http://LOCALHOST./a",
            "http://a.localhost/",
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://10.0.0.1/",
            "http://192.168.0.1/",
            "http://169.254.169.254/latest",
            "http://0.0.0.0/",
            "http://[::1]/",
            "http://[::ffff:10.0.0.1]/",
            "http://[fd00::1]/",
            "http://[fe80::1%25eth0]/",
            "http://224.0.0.1/",
            "http://metadata.google.internal/",
            "http://user@127.0.0.1/",
        ],
    ),
]


def shown(value: object) -> str | None:
    """A text cut short, and a function by its name."""
    return value[:40] if isinstance(value, str) else None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.com/a/b?sig=secret#x", "https://example.com/a/b"),
        ("https://me:secret@example.com", "https://example.com"),
        ("https://me:secret@example.com/a@b", "https://example.com/a@b"),
        ("me:secret@host/a", "host/a"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert syntax.shown_url(url) == shown


@pytest.mark.parametrize(("check", "text"), [(check, text) for check, good, _ in CASES for text in good], ids=shown)
def test_what_is_well_written_passes(check: syntax.Check, text: str) -> None:
    assert check(text) is None


@pytest.mark.parametrize(("check", "text"), [(check, text) for check, _, bad in CASES for text in bad], ids=shown)
def test_what_is_not_is_told_how_to_be_written(check: syntax.Check, text: str) -> None:
    message = check(text)
    assert message is not None
    assert message.startswith(("is ", "must "))
