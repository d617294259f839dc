# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How names, labels, images, addresses and numbers in a manifest must be written.

Each check takes the text and returns what is wrong with it, ready to stand behind a field's path, or None. Which field
needs which check is for `kaito.api.rules` to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final
from urllib.parse import urlsplit

Check = Callable[[str], str | None]

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
# Upper-case letters are taken although registries refuse them: example manifests hold placeholders in capitals.
_IMAGE = re.compile(
    r"([\w.-]+(:\d+)?/)?\w[\w.-]*(/\w[\w.-]*)*(:\w[\w.-]{0,127})?(@[A-Za-z0-9+._-]+:[0-9a-fA-F]{32,})?", re.ASCII
)
_NUMERIC_HOST = re.compile(r"(0x[0-9a-f]*|\d+)(\.(0x[0-9a-f]*|\d+))*", re.IGNORECASE)
_METADATA_HOSTS: Final = frozenset({"metadata.google.internal", "metadata.google", "instance-data.ec2.internal"})


def dns_label(text: str) -> str | None:
    """RFC 1123 label: what most names of Kubernetes objects are."""
    if len(text) <= 63 and _DNS_LABEL.fullmatch(text):
        return None
    return "must be at most 63 lower-case letters, digits and '-', and begin and end with a letter or digit"


def dns_subdomain(text: str) -> str | None:
    """RFC 1123 subdomain: labels with dots between them."""
    if len(text) <= 253 and _DNS_SUBDOMAIN.fullmatch(text):
        return None
    return "must be at most 253 lower-case letters, digits, '-' and '.', and begin and end with a letter or digit"


def label_key(text: str) -> str | None:
    """A label's key, with or without a prefix."""
    prefix, slash, name = text.rpartition("/")
    prefix_is_wrong = bool(slash) and dns_subdomain(prefix) is not None
    if not prefix_is_wrong and len(name) <= 63 and _QUALIFIED_NAME.fullmatch(name):
        return None
    return "is not a label key: write name or prefix/name, of letters, digits, '-', '_' and '.'"


def label_value(text: str) -> str | None:
    """A label's value, which may be empty."""
    if not text or (len(text) <= 63 and _QUALIFIED_NAME.fullmatch(text)):
        return None
    return (
        "is not a label value: write at most 63 letters, digits, '-', '_' and '.', "
        "beginning and ending with a letter or digit"
    )


def image(text: str) -> str | None:
    """A container image's name."""
    if _IMAGE.fullmatch(text):
        return None
    return "is not the name of an image: write registry/repository:tag"


def strength(text: str) -> str | None:
    """How much an adapter counts."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    return None if 0.0 <= number <= 1.0 else "must be a decimal number from 0 to 1, in quotes"


def public_url(text: str) -> str | None:
    """An address that may be downloaded from inside a cluster: HTTP(S), and not the cluster's or the cloud's own.

    Only the text is judged; a name that resolves to a private address is for the network to refuse.
    """
    try:
        parts = urlsplit(text)
        host = (parts.hostname or "").lower().rstrip(".")
        port_is_wrong = parts.port == 0
    except ValueError:
        return "is not a URL"
    if parts.scheme.lower() not in ("http", "https") or not host or port_is_wrong:
        return "must be an absolute http:// or https:// URL"
    if host == "localhost" or host.endswith(".localhost") or host in _METADATA_HOSTS or _is_private(host):
        return "must not point at a loopback, private or metadata address: put the data where the cluster can reach it"
    return None


def shown_url(text: str) -> str:
    """The address without what may be secret in it: user, password, query and fragment."""
    address = text.partition("?")[0].partition("#")[0]
    scheme, separator, rest = address.rpartition("//")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def _is_private(host: str) -> bool:
    try:
        address: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
    except ValueError:
        # Downloaders read 127.1, 0x7f000001 and 2130706433 as addresses too; no real host is called so.
        return _NUMERIC_HOST.fullmatch(host) is not None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return not address.is_global or address.is_multicast
