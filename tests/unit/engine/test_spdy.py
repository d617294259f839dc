# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""SPDY frames: what is made can be read, however it is cut, and what is damaged is refused."""

from __future__ import annotations

import zlib

import pytest

from kaito.engine.wire.spdy import (
    DICTIONARY,
    Data,
    Decoder,
    Encoder,
    Goodbye,
    Opened,
    Ping,
    Reset,
    SpdyError,
    data,
    ping,
    reset,
)


def test_the_dictionary_is_the_one_that_everybody_has() -> None:
    assert (len(DICTIONARY), zlib.adler32(DICTIONARY)) == (1423, 0xE3C6A7C2)


def conversation() -> bytes:
    encoder = Encoder()
    frames = [
        encoder.opened(1, {"streamType": "error", "port": "80", "requestID": "0"}, is_last=True),
        encoder.opened(3, {"streamType": "data", "port": "80", "requestID": "0"}),
        encoder.reply(5),
        data(3, b"x" * 1000),
        ping(7),
        data(3, b"", is_last=True),
        reset(1, 5),
        b"\x80\x03\x00\x07\x00\x00\x00\x08" + bytes(8),
    ]
    return b"".join(frames)


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_frames_come_through_in_pieces_of_any_size(size: int) -> None:
    raw, decoder = conversation(), Decoder()
    pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
    found = [frame for piece in pieces for frame in decoder.feed(piece)]
    assert found == [
        Opened(1, {"streamtype": "error", "port": "80", "requestid": "0"}, is_last=True),
        Opened(3, {"streamtype": "data", "port": "80", "requestid": "0"}, is_last=False),
        Data(3, b"x" * 1000, is_last=False),
        Ping(7),
        Data(3, b"", is_last=True),
        Reset(1),
        Goodbye(),
    ]


@pytest.mark.parametrize(
    "raw",
    [
        b"\x80\x02\x00\x06\x00\x00\x00\x04\x00\x00\x00\x01",
        b"\x80\x03\x00\x06\x00\x00\x00\x01\x00",
        b"\x80\x03\x00\x01\x00\x00\x00\x0e" + bytes(14),
    ],
    ids=["another version", "a ping without its number", "headers that are not compressed"],
)
def test_damaged_frames_are_refused(raw: bytes) -> None:
    with pytest.raises(SpdyError):
        list(Decoder().feed(raw))
