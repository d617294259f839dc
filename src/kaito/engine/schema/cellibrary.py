# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The functions that Kubernetes adds to CEL: quantities, addresses, URLs, patterns, lists, sets, versions, formats.

Values of types that CEL does not have (a quantity, an address) are maps of one entry, type name to canonical text, so
that equal values are equal; expressions are checked against types that have nothing but a name. Source of names and
meanings: the CEL page of Kubernetes' reference documentation, 1.36. Pure.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from urllib.parse import parse_qs
from uuid import UUID

import re2  # type: ignore[import-untyped]

from kaito.engine.schema import celaddresses, syntax
from kaito.engine.schema.celtypes import (
    CIDR,
    FORMAT,
    IP,
    PROBLEMS,
    QUANTITY,
    SEMVER,
    URL,
    Opaque,
    duration,
    text_of,
    timestamp,
)
from kaito.engine.schema.quantity import value_of

# Quantities


def _quantity(text: str) -> Opaque:
    try:
        return {QUANTITY: format(value_of(text).normalize(), "f")}
    except (ValueError, ArithmeticError):
        raise ValueError(
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        ) from None


def _amount(value: Opaque) -> Decimal:
    return Decimal(text_of(value, QUANTITY))


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
    found = _SEMVER.fullmatch(text_of(value, SEMVER))
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


# URLs and patterns


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


def _distinct(values: list[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _flattened(values: list[Any], depth: int = 1) -> list[Any]:
    if depth < 0:
        raise ValueError("level must be non-negative")
    found: list[Any] = []
    for value in values:
        found.extend(_flattened(value, depth - 1) if isinstance(value, list) and depth else [value])
    return found


def _sliced(values: list[Any], start: int, end: int) -> list[Any]:
    if not 0 <= start <= end <= len(values):
        raise ValueError(f"cannot slice({start}, {end}), list is length {len(values)}")
    return values[start:end]


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
    "uri": _fits(celaddresses.url, "URI"),
    "uuid": _fits(UUID, "UUID"),
    "byte": _fits(lambda text: base64.b64decode(text, validate=True), "base64 text"),
    "date": _fits(date.fromisoformat, "date"),
    "datetime": _fits(datetime.fromisoformat, "date and time"),
}


def _validated(form: Opaque, text: str) -> dict[str, list[str]]:
    return {PROBLEMS: FORMATS[text_of(form, FORMAT)](text)}


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
    """One function: the types of its arguments and value in each of its forms, and what it does."""

    name: str
    forms: tuple[tuple[tuple[str, ...], str], ...]
    call: Callable[..., Any]
    is_member: bool = False


def _guarded(call: Callable[..., Any]) -> Callable[..., Any]:
    """The function with values and errors that the library takes."""

    def guarded(*arguments: Any) -> Any:
        try:
            return _given(call(*arguments))
        except TypeError:
            raise ValueError("no such overload") from None

    return guarded


def _given(value: Any) -> Any:
    if isinstance(value, list):
        return [_given(item) for item in value]
    if isinstance(value, datetime):
        return timestamp(value)
    return duration(value) if isinstance(value, timedelta) else value


def _succeeds(call: Callable[..., Any]) -> Callable[..., bool]:
    def judged(*arguments: Any) -> bool:
        try:
            call(*arguments)
        except ValueError:
            return False
        return True

    return judged


def _free(name: str, returns: str, call: Callable[..., Any], *forms: tuple[str, ...]) -> _Function:
    return _Function(name, tuple((form, returns) for form in forms), call)


def _member(name: str, returns: str, call: Callable[..., Any], *forms: tuple[str, ...]) -> _Function:
    return _Function(name, tuple((form, returns) for form in forms), call, is_member=True)


def _over(name: str, call: Callable[..., Any], kinds: tuple[str, ...], returns: str = "") -> _Function:
    """A member of lists of each of these kinds; gives one of the items when no other type is named."""
    return _Function(name, tuple(((f"list({kind})",), returns or kind) for kind in kinds), call, is_member=True)


_ORDERED: Final = ((QUANTITY, QUANTITY), (SEMVER, SEMVER))
_ADDED: Final = ((QUANTITY, QUANTITY), (QUANTITY, "int"))
_NUMBERS: Final = ("int", "uint", "double", "duration")
_COMPARABLE: Final = (*_NUMBERS, "bool", "string", "bytes", "timestamp")

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
    _free("ip", IP, celaddresses.ip, ("string",)),
    _free("isIP", "bool", _succeeds(celaddresses.ip), ("string",)),
    _free("ip.isCanonical", "bool", celaddresses.is_canonical, ("string",)),
    _member("family", "int", lambda value: celaddresses.address_of(value).version, (IP,)),
    _member("isUnspecified", "bool", lambda value: celaddresses.address_of(value).is_unspecified, (IP,)),
    _member("isLoopback", "bool", lambda value: celaddresses.address_of(value).is_loopback, (IP,)),
    _member("isLinkLocalMulticast", "bool", celaddresses.is_link_local_multicast, (IP,)),
    _member("isLinkLocalUnicast", "bool", lambda value: celaddresses.address_of(value).is_link_local, (IP,)),
    _member("isGlobalUnicast", "bool", celaddresses.is_global_unicast, (IP,)),
    _free("cidr", CIDR, celaddresses.cidr, ("string",)),
    _free("isCIDR", "bool", _succeeds(celaddresses.cidr), ("string",)),
    _member("containsIP", "bool", celaddresses.contains_ip, (CIDR, IP), (CIDR, "string")),
    _member("containsCIDR", "bool", celaddresses.contains_cidr, (CIDR, CIDR), (CIDR, "string")),
    _member("ip", IP, celaddresses.ip, (CIDR,)),
    _member("prefixLength", "int", lambda value: celaddresses.network(value).network.prefixlen, (CIDR,)),
    _member("masked", CIDR, lambda value: {CIDR: str(celaddresses.network(value).network)}, (CIDR,)),
    _free("url", URL, celaddresses.url, ("string",)),
    _free("isURL", "bool", _succeeds(celaddresses.url), ("string",)),
    _member("getScheme", "string", celaddresses.url_part(lambda parts: parts.scheme), (URL,)),
    _member("getHost", "string", celaddresses.url_part(celaddresses.url_host), (URL,)),
    _member("getHostname", "string", celaddresses.url_part(lambda parts: parts.hostname or ""), (URL,)),
    _member("getPort", "string", celaddresses.url_part(lambda parts: str(parts.port or "")), (URL,)),
    _member("getEscapedPath", "string", celaddresses.url_part(lambda parts: parts.path), (URL,)),
    _member(
        "getQuery", "query", celaddresses.url_part(lambda parts: parse_qs(parts.query, keep_blank_values=True)), (URL,)
    ),
    _member("find", "string", _find, ("string", "string")),
    _member("findAll", "list(string)", _find_all, ("string", "string")),
    _member("findAll", "list(string)", _find_all, ("string", "string", "int")),
    _over("sum", _sum, _NUMBERS),
    _over("min", _least(min, "min"), _COMPARABLE),
    _over("max", _least(max, "max"), _COMPARABLE),
    _over("isSorted", lambda values: values == sorted(values), _COMPARABLE, "bool"),
    _over("sort", sorted, _COMPARABLE, "list"),
    _member("distinct", "list", _distinct, ("list",)),
    _member("flatten", "list", _flattened, ("list",)),
    _member("flatten", "list", _flattened, ("list", "int")),
    _member("reverse", "list", lambda values: values[::-1], ("list",)),
    _member("slice", "list", _sliced, ("list", "int", "int")),
    _free("lists.range", "list(int)", lambda count: list(range(count)), ("int",)),
    _member("indexOf", "int", _position, ("list", "dyn")),
    _member("lastIndexOf", "int", _last_position, ("list", "dyn")),
    _free("sets.contains", "bool", _has_all, ("list", "list")),
    _free("sets.equivalent", "bool", lambda a, b: _has_all(a, b) and _has_all(b, a), ("list", "list")),
    _free("sets.intersects", "bool", lambda a, b: any(item in a for item in b), ("list", "list")),
    *(_free(f"format.{name}", FORMAT, lambda name=name: {FORMAT: name}, ()) for name in FORMATS),
    _member("validate", PROBLEMS, _validated, (FORMAT, "string")),
    _member("hasValue", "bool", lambda value: bool(_problems(value)), (PROBLEMS,)),
    _member("value", "list(string)", _first_problems, (PROBLEMS,)),
)


_COMPARISONS: Final = ("_<_", "_<=_", "_>_", "_>=_")
_MIXED: Final = tuple((left, right) for left in _NUMBERS[:3] for right in _NUMBERS[:3] if left != right)


def declarations(cel: Any, *, typed: bool) -> list[Any]:
    """The functions as the CEL library wants them. Without types every argument may be anything."""
    by_name: dict[str, list[Any]] = {}
    for function in FUNCTIONS:
        for form, returns in function.forms if typed else _untyped(function.forms):
            overload = cel.Overload(
                "_".join((function.name, *form, "typed" if typed else "any")),
                return_type=_type(cel, returns),
                parameters=[_type(cel, name) for name in form],
                is_member=function.is_member,
                **({} if typed else {"impl": _guarded(function.call)}),
            )
            by_name.setdefault(function.name, []).append(overload)
    if typed:
        # Numbers of two types may be compared, which the library evaluates but does not declare.
        by_name |= {
            name: [
                cel.Overload(
                    "_".join((name, *pair)),
                    return_type=cel.Type.BOOL,
                    parameters=[_type(cel, item) for item in pair],
                )
                for pair in _MIXED
            ]
            for name in _COMPARISONS
        }
    return [cel.FunctionDecl(name, overloads) for name, overloads in by_name.items()]


def _untyped(forms: tuple[tuple[tuple[str, ...], str], ...]) -> list[tuple[tuple[str, ...], str]]:
    """One form for each number of arguments: where the types differ, of any type."""
    found: dict[int, tuple[str, ...]] = {}
    for form, _ in forms:
        plain = tuple(_plain(name) for name in form)
        earlier = found.get(len(plain), plain)
        found[len(plain)] = tuple(a if a == b else "dyn" for a, b in zip(plain, earlier, strict=True))
    return [(form, "dyn") for form in found.values()]


def _plain(name: str) -> str:
    if name.startswith("list"):
        return "list"
    return "map" if "." in name else name


def _type(cel: Any, name: str) -> Any:
    kinds = cel.Type
    if name.startswith("list("):
        return kinds.List(_type(cel, name[5:-1]))
    if name == "query":
        return kinds.Map(kinds.STRING, kinds.List(kinds.STRING))
    return getattr(kinds, name.upper(), None) or kinds(name)
