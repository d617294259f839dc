# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How names, labels, ports and the like must be written, and what Kubernetes says when they are not.

Each function returns the problems of one text, none when it is fine; the list is not the caller's to change, because
texts that come again and again (keys, container names) are judged once. Words, limits and patterns are those of
k8s.io/apimachinery/pkg/util/validation.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Final

_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = rf"{_LABEL}(\.{_LABEL})*"
_DNS_1035: Final = "[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED: Final = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE: Final = f"({_QUALIFIED})?"
_CONFIG_KEY: Final = "[-._a-zA-Z0-9]+"
_PATH_SEGMENT: Final = ("/", "%")
_fits_subdomain: Final = re.compile(_SUBDOMAIN).fullmatch
_remembered: Final = lru_cache(maxsize=4096)

_LABEL_RULE: Final = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    f"an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
)
_SUBDOMAIN_RULE: Final = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_DNS_1035_RULE: Final = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    f"'{_DNS_1035}')"
)
_QUALIFIED_RULE: Final = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    f"(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_QUALIFIED}')"
)
_LABEL_VALUE_RULE: Final = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    f"'{_LABEL_VALUE}')"
)
_ENV_NAME_RULE: Final = (
    "a valid environment variable name must consist only of printable ASCII characters other than '='"
)
_CONFIG_KEY_RULE: Final = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or "
    f"'key-name', regex used for validation is '{_CONFIG_KEY}')"
)


def _longer(text: str, limit: int, unit: str = "characters") -> list[str]:
    return [f"must be no more than {limit} {unit}"] if len(text.encode()) > limit else []


@_remembered
def dns_label_problems(text: str) -> list[str]:
    """RFC 1123 label: most container, volume and namespace names."""
    return _longer(text, 63) + ([] if re.fullmatch(_LABEL, text) else [_LABEL_RULE])


def dns_subdomain_problems(text: str) -> list[str]:
    """RFC 1123 subdomain: most object names."""
    return _longer(text, 253) + ([] if _fits_subdomain(text) else [_SUBDOMAIN_RULE])


def dns_1035_problems(text: str) -> list[str]:
    """RFC 1035 label: Service names."""
    return _longer(text, 63) + ([] if re.fullmatch(_DNS_1035, text) else [_DNS_1035_RULE])


def path_segment_problems(text: str) -> list[str]:
    """A name that may stand in a URL path: RBAC names."""
    if text in (".", ".."):
        return [f"may not be '{text}'"]
    return [f"may not contain '{part}'" for part in _PATH_SEGMENT if part in text]


@_remembered
def label_key_problems(text: str) -> list[str]:
    """A qualified name: an optional DNS subdomain and a slash, then a name. Labels, taints, finalizers."""
    parts = text.split("/")
    if len(parts) > 2:
        example = "a qualified name " + _QUALIFIED_RULE
        return [f"{example} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"]
    problems = []
    if len(parts) == 2:
        if not parts[0]:
            problems.append("prefix part must be non-empty")
        else:
            problems += [f"prefix part {problem}" for problem in dns_subdomain_problems(parts[0])]
    name = parts[-1]
    if not name:
        problems.append("name part must be non-empty")
    problems += [f"name part {problem}" for problem in _longer(name, 63, "bytes")]
    if not re.fullmatch(_QUALIFIED, name):
        problems.append(f"name part {_QUALIFIED_RULE}")
    return problems


@_remembered
def label_value_problems(text: str) -> list[str]:
    """A label's value, possibly empty."""
    return _longer(text, 63, "bytes") + ([] if re.fullmatch(_LABEL_VALUE, text) else [_LABEL_VALUE_RULE])


@_remembered
def env_name_problems(text: str) -> list[str]:
    """The name of an environment variable (Kubernetes ≥ 1.32 allows all printable ASCII but `=`)."""
    if text and all(32 <= ord(char) <= 126 and char != "=" for char in text):
        return []
    return [_ENV_NAME_RULE]


@_remembered
def config_key_problems(text: str) -> list[str]:
    """A key of a ConfigMap or Secret: it becomes a file name."""
    problems = _longer(text, 253) + ([] if re.fullmatch(_CONFIG_KEY, text) else [_CONFIG_KEY_RULE])
    if text in (".", ".."):
        problems.append(f"must not be '{text}'")
    elif text.startswith(".."):
        problems.append("must not start with '..'")
    return problems


def port_number_problems(port: int) -> list[str]:
    """A TCP or UDP port."""
    return [] if 1 <= port <= 65535 else ["must be between 1 and 65535, inclusive"]


@_remembered
def port_name_problems(text: str) -> list[str]:
    """The name of a container's port (IANA service name)."""
    problems = []
    if len(text) > 15:
        problems.append("must be no more than 15 characters")
    if not re.fullmatch("[-a-z0-9]+", text):
        problems.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", text):
        problems.append("must contain at least one letter (a-z)")
    if "--" in text:
        problems.append("must not contain consecutive hyphens")
    if text[:1] == "-" or text[-1:] == "-":
        problems.append("must not begin or end with a hyphen")
    return problems


def ip_problems(text: str) -> list[str]:
    """An IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]
    return []
