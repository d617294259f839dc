# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The functions that Kubernetes adds to CEL: quantities, addresses, URLs, patterns, lists, sets, versions, formats.

Values of types that CEL does not have (a quantity, an address) are maps of one entry, type name to canonical text, so
that equal values are equal; expressions are checked against the real type names. Source of names and meanings: the CEL
page of Kubernetes' reference documentation, 1.36. Pure.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import re2  # type: ignore[import-untyped]

from kaito.engine.schema import syntax
from kaito.engine.schema.quantity import value_of

QUANTITY, IP, CIDR, URL, SEMVER, FORMAT = (
    "kubernetes.Quantity", "net.IP", "net.CIDR", "kubernetes.URL", "kubernetes.Semver", "kubernetes.NamedFormat",
)  # fmt: skip
PROBLEMS: Final = "kubernetes.Problems"
"""What a format's `validate` gives; an optional list in Kubernetes."""

Opaque = dict[str, str]


def _text(value: Opaque, kind: str) -> str:
    """The canonical text of a value of the kind. Raises ValueError for a value of another."""
    if not isinstance(value, dict) or kind not in value:
        raise ValueError("no such overload")
    return value[kind]


# Quantities


def _quantity(text: str) -> Opaque:
    try:
        return {QUANTITY: format(value_of(text).normalize(), "f")}
    except (ValueError, ArithmeticError):
        raise ValueError(
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        ) from None


def _amount(value: Opaque) -> Decimal:
    return Decimal(_text(value, QUANTITY))


def _other_amount(value: Any) -> Decimal:
    return Decimal(value) if isinstance(value, int) else _amount(value)


def _as_integer(value: Opaque) -> int:
    amount = _amount(value)
    if amount != amount.to_integral_value() or not -(2**63) <= amount < 2**63:
        raise ValueError("cannot convert value to integer")
    return int(amount)


def _summed(left: Opaque, right: Any) -> Opaque:
    return {QUANTITY: format((_amount(left) + _other_amount(right)).normalize(), "f")}


def _difference(left: Opaque, right: Any) -> Opaque:
    return {QUANTITY: format((_amount(left) - _other_amount(right)).normalize(), "f")}


def _sign(value: Opaque) -> int:
    amount = _amount(value)
    return (amount > 0) - (amount < 0)


# Versions

_SEMVER: Final = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-((?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)(?:\."
    r"(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*))*))?(?:\+([0-9A-Za-z.-]+))?"
)


def _semver(text: str, normalize: bool = False) -> Opaque:
    if normalize:
        text = _normalized(text)
    if not _SEMVER.fullmatch(text):
        raise ValueError(f"invalid semantic version: {text}")
    return {SEMVER: text}


def _normalized(text: str) -> str:
    """Without a leading v and leading zeros, with minor and patch numbers."""
    core, mark, rest = re.fullmatch(r"([^-+]*)([-+]?)(.*)", text.removeprefix("v"), re.DOTALL).groups()  # type: ignore[union-attr]
    parts = [part.lstrip("0") or "0" for part in core.split(".")]
    return ".".join([*parts, "0", "0"][: max(3, len(parts))]) + mark + rest


def _version(value: Opaque) -> tuple[Any, ...]:
    """The precedence of semver.org, as a sortable value."""
    found = _SEMVER.fullmatch(_text(value, SEMVER))
    assert found is not None
    major, minor, patch, before, _ = found.groups()
    marks = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in (before or "").split(".") if part]
    return int(major), int(minor), int(patch), not before, marks


def _version_part(index: int) -> Callable[[Opaque], int]:
    return lambda value: int(_version(value)[index])


def _comparable(value: Opaque) -> Any:
    return _version(value) if SEMVER in value else _amount(value)


def _compared(left: Opaque, right: Opaque) -> int:
    first, second = _comparable(left), _comparable(right)
    return int(first > second) - int(first < second)


# Addresses

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def _address(text: str) -> _Address:
    found = ipaddress.ip_address(text)
    if "%" in text:
        raise ValueError("IP address with zone value is not allowed")
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        raise ValueError("IPv4-mapped IPv6 address is not allowed")
    return found


def _ip(value: Any) -> Opaque:
    """An address from its text, or that of a range."""
    if isinstance(value, dict):
        return {IP: str(_network(value).ip)}
    try:
        return {IP: str(_address(value))}
    except ValueError:
        raise ValueError(f"IP Address {value!r} parse error during conversion from string") from None


def _cidr(text: str) -> Opaque:
    try:
        host, mark, length = text.partition("/")
        if not mark or not length.isdigit():
            raise ValueError
        return {CIDR: str(ipaddress.ip_interface(f"{_address(host)}/{length}"))}
    except ValueError:
        raise ValueError(f"network address parse error during conversion from string: {text!r}") from None


def _address_of(value: Any) -> _Address:
    return ipaddress.ip_address(_text(value if isinstance(value, dict) else _ip(value), IP))


def _network(value: Any) -> _Network:
    return ipaddress.ip_interface(_text(value if isinstance(value, dict) else _cidr(value), CIDR))


def _contains_ip(outer: Opaque, inner: Any) -> bool:
    return _address_of(inner) in _network(outer).network


def _contains_cidr(outer: Opaque, inner: Any) -> bool:
    outside, inside = _network(outer).network, _network(inner).network
    return outside.version == inside.version and inside.subnet_of(outside)  # type: ignore[arg-type]


def _is_link_local_multicast(value: Opaque) -> bool:
    address = _address_of(value)
    if address.version == 4:
        return address in ipaddress.ip_network("224.0.0.0/24")
    return address.packed[0] == 0xFF and address.packed[1] & 0x0F == 2


def _is_global_unicast(value: Opaque) -> bool:
    address = _address_of(value)
    broadcast = address == ipaddress.ip_address("255.255.255.255")
    special = address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local
    return not (broadcast or special)


def _is_canonical(text: str) -> bool:
    return str(_address(text)) == text


# URLs and patterns


def _url(text: str) -> Opaque:
    parts = urlsplit(text)
    if not (parts.scheme or text.startswith("/")) or " " in text:
        raise ValueError(f"URL parse error during conversion from string: parse {text!r}: invalid URI for request")
    _ = parts.port  # raises ValueError for a port that is no number
    return {URL: text}


def _part(read: Callable[[Any], Any]) -> Callable[[Opaque], Any]:
    return lambda value: read(urlsplit(_text(value, URL)))


def _host(parts: Any) -> str:
    return str(parts.netloc.rpartition("@")[2])


def _pattern(text: str) -> Any:
    try:
        return re2.compile(text)
    except re2.error as error:
        raise ValueError(f"Illegal regex: {error}") from None


def _find(text: str, pattern: str) -> str:
    found = _pattern(pattern).search(text)
    return str(found.group(0)) if found else ""


def _find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    found = [match.group(0) for match in _pattern(pattern).finditer(text)]
    return found if limit < 0 else found[:limit]


# Lists and sets


def _sum(values: list[Any]) -> Any:
    return sum(values[1:], values[0]) if values else 0


def _least(choose: Callable[[list[Any]], Any], name: str) -> Callable[[list[Any]], Any]:
    def chosen(values: list[Any]) -> Any:
        if not values:
            raise ValueError(f"{name} called on empty list")
        return choose(values)

    return chosen


def _position(values: list[Any], wanted: Any) -> int:
    return values.index(wanted) if wanted in values else -1


def _last_position(values: list[Any], wanted: Any) -> int:
    return len(values) - 1 - values[::-1].index(wanted) if wanted in values else -1


def _has_all(values: list[Any], wanted: list[Any]) -> bool:
    return all(item in values for item in wanted)


# Formats


def _fits(read: Callable[[str], Any], name: str) -> Callable[[str], list[str]]:
    def problems(text: str) -> list[str]:
        try:
            read(text)
        except ValueError:
            return [f"must be a valid {name}"]
        return []

    return problems


FORMATS: Final[dict[str, Callable[[str], list[str]]]] = {
    "dns1123Label": syntax.dns_label_problems,
    "dns1123Subdomain": syntax.dns_subdomain_problems,
    "dns1035Label": syntax.dns_1035_problems,
    "qualifiedName": syntax.label_key_problems,
    "dns1123LabelPrefix": lambda text: syntax.dns_label_problems(text.removesuffix("-")),
    "dns1123SubdomainPrefix": lambda text: syntax.dns_subdomain_problems(text.removesuffix("-")),
    "dns1035LabelPrefix": lambda text: syntax.dns_1035_problems(text.removesuffix("-")),
    "labelValue": syntax.label_value_problems,
    "uri": _fits(_url, "URI"),
    "uuid": _fits(UUID, "UUID"),
    "byte": _fits(lambda text: base64.b64decode(text, validate=True), "base64 text"),
    "date": _fits(date.fromisoformat, "date"),
    "datetime": _fits(datetime.fromisoformat, "date and time"),
}


def _validated(form: Opaque, text: str) -> dict[str, list[str]]:
    return {PROBLEMS: FORMATS[_text(form, FORMAT)](text)}


def _problems(value: Any) -> list[str]:
    if not isinstance(value, dict) or PROBLEMS not in value:
        raise ValueError("no such overload")
    return list(value[PROBLEMS])


def _first_problems(value: Any) -> list[str]:
    found = _problems(value)
    if not found:
        raise ValueError("optional.none() dereference")
    return found


# The table


@dataclass(frozen=True, slots=True)
class _Function:
    """One function: the types of its arguments (several forms of the same length) and of its value."""

    name: str
    forms: tuple[tuple[str, ...], ...]
    returns: str
    call: Callable[..., Any]
    is_member: bool = False


def _succeeds(call: Callable[..., Any]) -> Callable[..., bool]:
    def judged(*arguments: Any) -> bool:
        try:
            call(*arguments)
        except ValueError:
            return False
        return True

    return judged


def _free(name: str, returns: str, call: Callable[..., Any], *forms: tuple[str, ...]) -> _Function:
    return _Function(name, forms, returns, call)


def _member(name: str, returns: str, call: Callable[..., Any], *forms: tuple[str, ...]) -> _Function:
    return _Function(name, forms, returns, call, is_member=True)


_ORDERED: Final = ((QUANTITY, QUANTITY), (SEMVER, SEMVER))
_ADDED: Final = ((QUANTITY, QUANTITY), (QUANTITY, "int"))

FUNCTIONS: Final = (
    _free("quantity", QUANTITY, _quantity, ("string",)),
    _free("isQuantity", "bool", _succeeds(_quantity), ("string",)),
    _member("sign", "int", _sign, (QUANTITY,)),
    _member("isInteger", "bool", _succeeds(_as_integer), (QUANTITY,)),
    _member("asInteger", "int", _as_integer, (QUANTITY,)),
    _member("asApproximateFloat", "double", lambda value: float(_amount(value)), (QUANTITY,)),
    _member("add", QUANTITY, _summed, *_ADDED),
    _member("sub", QUANTITY, _difference, *_ADDED),
    _member("isGreaterThan", "bool", lambda a, b: _compared(a, b) > 0, *_ORDERED),
    _member("isLessThan", "bool", lambda a, b: _compared(a, b) < 0, *_ORDERED),
    _member("compareTo", "int", _compared, *_ORDERED),
    _free("semver", SEMVER, _semver, ("string",)),
    _free("semver", SEMVER, _semver, ("string", "bool")),
    _free("isSemver", "bool", _succeeds(_semver), ("string",)),
    _free("isSemver", "bool", _succeeds(_semver), ("string", "bool")),
    _member("major", "int", _version_part(0), (SEMVER,)),
    _member("minor", "int", _version_part(1), (SEMVER,)),
    _member("patch", "int", _version_part(2), (SEMVER,)),
    _free("ip", IP, _ip, ("string",)),
    _free("isIP", "bool", _succeeds(_ip), ("string",)),
    _free("ip.isCanonical", "bool", _is_canonical, ("string",)),
    _member("family", "int", lambda value: _address_of(value).version, (IP,)),
    _member("isUnspecified", "bool", lambda value: _address_of(value).is_unspecified, (IP,)),
    _member("isLoopback", "bool", lambda value: _address_of(value).is_loopback, (IP,)),
    _member("isLinkLocalMulticast", "bool", _is_link_local_multicast, (IP,)),
    _member("isLinkLocalUnicast", "bool", lambda value: _address_of(value).is_link_local, (IP,)),
    _member("isGlobalUnicast", "bool", _is_global_unicast, (IP,)),
    _free("cidr", CIDR, _cidr, ("string",)),
    _free("isCIDR", "bool", _succeeds(_cidr), ("string",)),
    _member("containsIP", "bool", _contains_ip, (CIDR, IP), (CIDR, "string")),
    _member("containsCIDR", "bool", _contains_cidr, (CIDR, CIDR), (CIDR, "string")),
    _member("ip", IP, _ip, (CIDR,)),
    _member("prefixLength", "int", lambda value: _network(value).network.prefixlen, (CIDR,)),
    _member("masked", CIDR, lambda value: {CIDR: str(_network(value).network)}, (CIDR,)),
    _free("url", URL, _url, ("string",)),
    _free("isURL", "bool", _succeeds(_url), ("string",)),
    _member("getScheme", "string", _part(lambda parts: parts.scheme), (URL,)),
    _member("getHost", "string", _part(_host), (URL,)),
    _member("getHostname", "string", _part(lambda parts: parts.hostname or ""), (URL,)),
    _member("getPort", "string", _part(lambda parts: str(parts.port or "")), (URL,)),
    _member("getEscapedPath", "string", _part(lambda parts: parts.path), (URL,)),
    _member("getQuery", "map", _part(lambda parts: parse_qs(parts.query, keep_blank_values=True)), (URL,)),
    _member("find", "string", _find, ("string", "string")),
    _member("findAll", "list", _find_all, ("string", "string")),
    _member("findAll", "list", _find_all, ("string", "string", "int")),
    _member("sum", "dyn", _sum, ("list",)),
    _member("min", "dyn", _least(min, "min"), ("list",)),
    _member("max", "dyn", _least(max, "max"), ("list",)),
    _member("isSorted", "bool", lambda values: values == sorted(values), ("list",)),
    _member("indexOf", "int", _position, ("list", "dyn")),
    _member("lastIndexOf", "int", _last_position, ("list", "dyn")),
    _free("sets.contains", "bool", _has_all, ("list", "list")),
    _free("sets.equivalent", "bool", lambda a, b: _has_all(a, b) and _has_all(b, a), ("list", "list")),
    _free("sets.intersects", "bool", lambda a, b: any(item in a for item in b), ("list", "list")),
    *(_free(f"format.{name}", FORMAT, lambda name=name: {FORMAT: name}, ()) for name in FORMATS),
    _member("validate", PROBLEMS, _validated, (FORMAT, "string")),
    _member("hasValue", "bool", lambda value: bool(_problems(value)), (PROBLEMS,)),
    _member("value", "list", _first_problems, (PROBLEMS,)),
    _member("orValue", "list", lambda value, other: _problems(value) or other, (PROBLEMS, "list")),
)


def declarations(cel: Any, *, typed: bool) -> list[Any]:
    """The functions as the CEL library wants them. Without types every argument may be anything."""
    by_name: dict[str, list[Any]] = {}
    for function in FUNCTIONS:
        forms = function.forms if typed else (function.forms[0],)
        for form in forms:
            overload = cel.Overload(
                "_".join((function.name, *form, "typed" if typed else "any")),
                return_type=_type(cel, function.returns, typed=typed),
                parameters=[_type(cel, name, typed=typed) for name in form],
                is_member=function.is_member,
                **({} if typed else {"impl": function.call}),
            )
            by_name.setdefault(function.name, []).append(overload)
    return [cel.FunctionDecl(name, overloads) for name, overloads in by_name.items()]


def _type(cel: Any, name: str, *, typed: bool) -> Any:
    kinds = cel.Type
    plain = {
        "string": kinds.STRING, "int": kinds.INT, "bool": kinds.BOOL, "double": kinds.DOUBLE, "dyn": kinds.DYN,
        "list": kinds.LIST, "map": kinds.MAP,
    }  # fmt: skip
    if name in plain:
        return plain[name]
    return kinds.AbstractType(name) if typed else kinds.MAP
