# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The reference of what users write, as a Markdown page made from the CustomResourceDefinition.

`python -m kaito.api.reference` prints what `docs/reference/workspace.md` holds; a test compares the two. The sentences
are the docstrings of the fields in `kaito.api.workspace`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from kaito.api.crd import workspace_crd

HEAD = """# Workspace

API `kaito.sh/v1beta1` (stored) and `kaito.sh/v1alpha1` (the same fields), kind `Workspace`, short names `wk` and `wks`.
Made from the code by `make generate`. Rules that span fields are checked when a Workspace is applied; the refusal names
the field. What the conditions mean stands in [conditions.md](../conditions.md).
"""
SECTIONS = ("resource", "inference", "tuning", "status")


def page() -> str:
    """The whole page."""
    versions = workspace_crd()["spec"]["versions"]
    schema = next(one for one in versions if one["storage"])["schema"]["openAPIV3Schema"]
    return HEAD + "".join(_section(name, schema["properties"][name]) for name in SECTIONS)


def _section(name: str, schema: dict[str, Any]) -> str:
    rows = "".join(
        f"| `{path}` | {_type(field)} | {_text(field, is_required=required)} |\n"
        for path, field, required in _fields(name, schema)
    )
    return f"\n## {name}\n\n{schema.get('description', '')}\n\n| Field | Type | Meaning |\n|---|---|---|\n{rows}"


def _fields(prefix: str, schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Every field below the schema: its path, its own schema, and whether its parent needs it."""
    for name, field in (schema.get("properties") or {}).items():
        path = f"{prefix}.{name}"
        yield path, field, name in schema.get("required", ())
        yield from _fields(path, field)
        if field.get("type") == "array":
            yield from _fields(f"{path}[]", field["items"])


def _type(field: dict[str, Any]) -> str:
    if field.get("type") == "array":
        return f"list of {field['items'].get('type', 'object')}"
    return str(field.get("type", "any"))


def _text(field: dict[str, Any], *, is_required: bool) -> str:
    """The field's sentences, then what its schema adds to them."""
    parts = [" ".join(str(field.get("description", "")).split()).replace("|", "\\|")]
    if field.get("enum"):
        parts.append("One of " + ", ".join(f"`{value}`" for value in field["enum"]) + ".")
    if field.get("default") is not None:
        parts.append(f"Default `{field['default']}`.")
    if is_required:
        parts.append("Required.")
    return " ".join(part for part in parts if part)


def main() -> None:
    """Print the page."""
    sys.stdout.write(page())


if __name__ == "__main__":
    main()
