# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""As much of SPDY/3.1 as `kubectl port-forward` speaks: streams with headers, their data, pings. Pure.

Bytes in, frames out, and back (draft-mbelshe-httpbis-spdy-00). There is no flow control: kubectl's library has none.
`kaito.engine.http.portforward` gives the streams their meaning.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

CONTROL = 0x8003
SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY = 1, 2, 3, 6, 7
FIN = 1
HEAD_BYTES = 8
LONGEST_HEADERS = 64 * 1024
WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status"
)
LATER_WORDS = ("200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin")
PLAIN = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
PREFIXED = (*WORDS.split(), *LATER_WORDS)
DICTIONARY = b"".join(struct.pack("!I", len(word)) + word.encode() for word in PREFIXED) + PLAIN.encode()
"""The text that header compression starts from (section 2.6.10.1 of the draft)."""


class SpdyError(Exception):
    """What came is not SPDY/3.1."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The other side opened a stream."""

    stream: int
    headers: Mapping[str, str]
    is_last: bool


@dataclass(frozen=True, slots=True)
class Data:
    """Data on a stream; `is_last`: the other side will send no more."""

    stream: int
    data: bytes
    is_last: bool


@dataclass(frozen=True, slots=True)
class Reset:
    """The other side gave a stream up."""

    stream: int


@dataclass(frozen=True, slots=True)
class Ping:
    """To be answered with the same number."""

    number: int


@dataclass(frozen=True, slots=True)
class Goodbye:
    """No more streams will be opened."""


Frame = Opened | Data | Reset | Ping | Goodbye


class Decoder:
    """Turns bytes into frames; kinds of frames that mean nothing here are left out."""

    def __init__(self) -> None:
        self._raw = b""
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now. Raises SpdyError."""
        self._raw += data
        while len(self._raw) >= HEAD_BYTES:
            first, rest = struct.unpack_from("!II", self._raw)
            flags, end = rest >> 24, HEAD_BYTES + (rest & 0xFFFFFF)
            if len(self._raw) < end:
                return
            body, self._raw = self._raw[HEAD_BYTES:end], self._raw[end:]
            if not first >> 31:
                yield Data(first, body, bool(flags & FIN))
                continue
            if first >> 16 != CONTROL:
                raise SpdyError("not a frame of SPDY version 3")
            frame = self._control(first & 0xFFFF, flags, body)
            if frame is not None:
                yield frame

    def _control(self, kind: int, flags: int, body: bytes) -> Frame | None:
        try:
            match kind:
                case 1:
                    (stream,) = struct.unpack_from("!I", body)
                    return Opened(stream & 0x7FFFFFFF, self._headers(body[10:]), bool(flags & FIN))
                case 2:
                    self._headers(body[4:])
                case 8:
                    self._headers(body[4:])
                case 3:
                    return Reset(struct.unpack_from("!I", body)[0] & 0x7FFFFFFF)
                case 6:
                    return Ping(struct.unpack_from("!I", body)[0])
                case 7:
                    return Goodbye()
        except (struct.error, zlib.error, UnicodeDecodeError) as error:
            raise SpdyError(f"a damaged frame of kind {kind}: {error}") from error
        return None

    def _headers(self, block: bytes) -> dict[str, str]:
        text = self._inflate.decompress(block, LONGEST_HEADERS)
        (count,) = struct.unpack_from("!I", text)
        at, words = 4, []
        for _ in range(2 * count):
            (length,) = struct.unpack_from("!I", text, at)
            words.append(text[at + 4 : at + 4 + length].decode())
            at += 4 + length
        return dict(zip((word.lower() for word in words[::2]), words[1::2], strict=True))


class Encoder:
    """Makes frames. What `opened` and `reply` return must be sent in the order in which it was made."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def opened(self, stream: int, headers: Mapping[str, str], *, is_last: bool = False) -> bytes:
        """Open a stream (what a client does)."""
        body = struct.pack("!IIH", stream, 0, 0) + self._headers(headers)
        return _control(SYN_STREAM, FIN if is_last else 0, body)

    def reply(self, stream: int) -> bytes:
        """Accept a stream."""
        return _control(SYN_REPLY, 0, struct.pack("!I", stream) + self._headers({}))

    def _headers(self, headers: Mapping[str, str]) -> bytes:
        text = struct.pack("!I", len(headers))
        for pair in headers.items():
            text += b"".join(struct.pack("!I", len(word.encode())) + word.encode() for word in pair)
        return self._deflate.compress(text) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def data(stream: int, body: bytes, *, is_last: bool = False) -> bytes:
    """Data for a stream."""
    return struct.pack("!II", stream, (FIN if is_last else 0) << 24 | len(body)) + body


def ping(number: int) -> bytes:
    """A ping, or the answer to one."""
    return _control(PING, 0, struct.pack("!I", number))


def reset(stream: int, status: int) -> bytes:
    """Give a stream up; 3 refuses it, 5 cancels it."""
    return _control(RST_STREAM, 0, struct.pack("!II", stream, status))


def _control(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("!II", CONTROL << 16 | kind, flags << 24 | len(body)) + body
