# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""docs/settings.md, written from the settings and the feature gates: `python -m kaito.operator.settings_page`."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from kaito.operator.features import GATES
from kaito.operator.flags import ALIASES, KAITO_PROVISIONERS, WITHOUT_EFFECT
from kaito.operator.settings import Settings

_HEAD = """# The operator's settings

Generated from the code (`make generate`). Each is a flag (`--webhook-port`), a variable (`KAITO_WEBHOOK_PORT`) and a
key of the YAML file that `--config` names (`webhook-port`). The flag wins, then the variable.

| Flag | Default | Meaning |
|---|---|---|
"""
_GATES = """
## Feature gates of KAITO v0.12

All are accepted by `--feature-gates name=true,name=false`.

| Gate | Default | Here |
|---|---|---|
"""
_FLAGS = """
## Other flags of KAITO v0.12

Accepted as well: `--metrics-bind-address` and `--health-probe-bind-address` (`host:port`, `:port`, `0` for none) and
`--webhook`. `--karpenter-node-class-group`, `--karpenter-node-class-kind` and the default one of
`--karpenter-node-classes` (a JSON list) say together what `--node-class` says; the classes are named, not made.

| Flag | Here |
|---|---|
"""


def page() -> str:
    """The whole page."""
    return "".join([_HEAD, *_settings(), _GATES, *_gates(), _FLAGS, *_flags()])


def _settings() -> Iterable[str]:
    for name, field in Settings.model_fields.items():
        default = field.default
        written = str(default).lower() if isinstance(default, bool) else default
        shown = "" if default in (None, "", (), {}) else f"`{written}`"
        text = " ".join((field.description or "").split()).replace("|", "\\|")
        yield f"| `--{name.replace('_', '-')}` | {shown} | {text} |\n"


def _gates() -> Iterable[str]:
    for name, gate in GATES.items():
        yield f"| `{name}` | {str(gate.default).lower()} | {gate.note} |\n"


def _flags() -> Iterable[str]:
    for old, new in ALIASES.items():
        yield f"| `--{old}` | the same as `--{new}` |\n"
    for old, new in KAITO_PROVISIONERS.items():
        yield f"| `--node-provisioner={old}` | the same as `--provisioner={new}` |\n"
    for name, why in WITHOUT_EFFECT.items():
        yield f"| `--{name}` | no effect: {why} |\n"


if __name__ == "__main__":
    sys.stdout.write(page())
