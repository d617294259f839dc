# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The version of the project: here, and nowhere else by hand.

The package takes its version from here; the images' tags and the Helm chart follow, which a test holds to it
(`tests/test_install.py`).
"""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
REGISTRY: Final = "ghcr.io/kaito-project"


def image(name: str) -> str:
    """The image of this release of a deployable: operator, runtime or provisioner."""
    return f"{REGISTRY}/kaito-{name}:{VERSION}"
