# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Chunked bodies in every way that they can be cut into pieces, and what is none."""

from __future__ import annotations

import pytest

from kaito.runtime.serve.framing import BadFraming, Chunked

BODY = b"5\r\nhello\r\n" + b"A;why=not\r\n" + b"\r\n0\r\n\r\n123" + b"\r\n0\r\nX-Trailer: 1\r\n\r\n"
PAYLOAD = b"hello" + b"\r\n0\r\n\r\n123"


@pytest.mark.parametrize("size", range(1, len(BODY) + 1))
def test_a_body_is_the_same_however_it_is_cut(size: int) -> None:
    whole = Chunked(keep=True)
    used = sum(whole.feed(BODY[at : at + size]) for at in range(0, len(BODY), size))
    assert (used, whole.done, b"".join(whole.payload)) == (len(BODY), True, PAYLOAD)


def test_a_chunk_that_comes_in_one_piece_leaves_room_for_another() -> None:
    chunks = Chunked(keep=True)
    assert chunks.feed(b"2\r\nab\r\n") == 7
    assert chunks.between_chunks and not chunks.done
    assert chunks.feed(b"3\r\ncde\r\n0\r\n\r\nGET /") == 13
    assert chunks.done and chunks.payload == [b"ab", b"cde"]


@pytest.mark.parametrize(
    "body",
    [
        b"2\r\nabc\r\n",
        b"2\r\na\r\n\r\n",
        b"-2\r\nab\r\n",
        b"0x2\r\nab\r\n",
        b"1_0\r\n" + 16 * b"a" + b"\r\n",
        b"\r\nab\r\n",
    ],
)
def test_what_only_looks_like_a_chunk_is_refused(body: bytes) -> None:
    with pytest.raises(BadFraming):
        Chunked(keep=False).feed(body)
