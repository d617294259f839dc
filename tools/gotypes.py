# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Draws `src/kaito/engine/schema/data/gotypes.txt` from checkouts of k8s.io/api and k8s.io/apimachinery.

    python tools/gotypes.py API_FOLDER APIMACHINERY_FOLDER > src/kaito/engine/schema/data/gotypes.txt

What the words of the table mean is told in `kaito.engine.schema.gotypes`. Take the release that
`kaito.engine.schema.builtin` names.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from kaito.engine.schema import builtin, kinds

META = "io.k8s.apimachinery.pkg.apis.meta.v1"
POSTED = (
    f"{META}.DeleteOptions",
    "io.k8s.api.policy.v1.Eviction",
    "io.k8s.api.autoscaling.v1.Scale",
    "io.k8s.api.authentication.v1.TokenRequest",
)
NOT_AS_STRUCTS = ("Time", "MicroTime", "Quantity", "IntOrString", "RawExtension")
STRUCT = re.compile(r"^type (\w+) struct \{\n(.*?)^\}", re.M | re.S)
FIELD = re.compile(r"^\s+(?:(\w+)\s+)?(\*?[\w.\[\]*]+)\s+`(.*)`", re.M)
REFERENCE = re.compile(r'"\$ref": ?"#/\$defs/([^"]+)"')


def source(package: str, api: Path, machinery: Path) -> Path | None:
    """The file with the package's types; None for packages of other modules."""
    if package == META:
        return machinery / "pkg/apis/meta/v1/types.go"
    if package.startswith("io.k8s.api."):
        group, version = package.removeprefix("io.k8s.api.").split(".")
        return api / group / version / "types.go"
    return None


def words(text: str, body: str) -> Iterator[str]:
    """A word for each field of a struct's body; `text` is the whole file."""
    structs = {*re.findall(r"^type (\w+) struct", text, re.M), "ObjectMeta", "ListMeta", "LabelSelector"}
    for _, type_, tags in FIELD.findall(body):
        named, numbered = re.search(r'json:"([^"]*)"', tags), re.search(r'protobuf:"[^,]*,(\d+),', tags)
        if named is None or numbered is None:
            continue
        name, *options = named.group(1).split(",")
        base = type_.lstrip("*").rpartition(".")[2]
        if not name or "inline" in options:
            yield f"{numbered.group(1)}:^{base}"
            continue
        is_value = not type_.startswith(("*", "[", "map")) and base in structs and base not in NOT_AS_STRUCTS
        if is_value and "omitzero" not in options:
            mark = "="
        elif type_.startswith("*"):
            mark = "*"
        else:
            mark = "" if "omitempty" in options or "omitzero" in options else "!"
        yield f"{numbered.group(1)}:{name}{mark}"


def reachable() -> list[str]:
    """The definitions of all served kinds, and of everything that they refer to."""
    todo = [*POSTED]
    for kind in kinds.BUILT_IN + kinds.REVIEWS:
        if builtin.knows(kind.api_version, kind.kind):
            todo.append(builtin.definition_name(kind.api_version, kind.kind))
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += REFERENCE.findall(json.dumps(builtin.definitions()[name]))
    return sorted(seen)


def main() -> int:
    """Write the table to standard output."""
    api, machinery = Path(sys.argv[1]), Path(sys.argv[2])
    lines: dict[str, str] = {}
    queue = reachable()
    while queue:
        name = queue.pop(0)
        package, _, short = name.rpartition(".")
        file = source(package, api, machinery)
        if name in lines or file is None:
            continue
        text = file.read_text()
        found = [word for struct, body in STRUCT.findall(text) if struct == short for word in words(text, body)]
        if found:
            lines[name] = f"{name} {' '.join(found)}"
            queue += [f"{package}.{word.partition(':^')[2]}" for word in found if ":^" in word]
    sys.stdout.write("".join(f"{lines[name]}\n" for name in sorted(lines)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
