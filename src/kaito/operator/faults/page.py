# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""docs/failures.md, written from the table: `python -m kaito.operator.faults.page`."""

from __future__ import annotations

import sys
from itertools import groupby

from kaito.operator.faults.fault import SIGNS, Fault
from kaito.operator.faults.table import FAULTS

_HEAD = """# What can fail, and what to do

Generated from the operator's table of faults (`make generate`). When a Workspace does not do what it is for,
`status.failure` has the reason, the evidence in the words of whoever said it, the next step, and since when; an event
with the same reason is written once. The condition's reason is the word that KAITO has for the class of the fault,
where it has one. Pods, nodes, claims and events are watched, so a failure is told as soon as the cluster tells it.

```sh
kubectl get workspace NAME -o jsonpath='{.status.failure}'
```

Within a section the first row that fits is taken.
"""


def page() -> str:
    """The whole page."""
    sections = [_section(SIGNS[sign], list(rows)) for sign, rows in groupby(FAULTS, key=lambda fault: fault.sign)]
    return "\n".join([_HEAD, *sections])


def _section(title: str, rows: list[Fault]) -> str:
    head = ["| Reason | Condition's reason | What has happened | Next step |", "|---|---|---|---|"]
    lines = [
        f"| `{row.reason}` | {f'`{row.condition}`' if row.condition else 'the same'} | {row.what} | {row.step} |"
        for row in rows
    ]
    return "\n".join([f"## Seen in: {title}", "", *head, *(_filled(line) for line in lines), ""])


def _filled(line: str) -> str:
    names = {"{pod}": "NAME-0", "{container}": "CONTAINER", "{type}": "The type"}
    for key, shown in names.items():
        line = line.replace(key, shown)
    return line


if __name__ == "__main__":
    sys.stdout.write(page())
