# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which kinds there are, and which of its versions stands for a custom one."""

from __future__ import annotations

import pytest

from kaito.engine.kinds import Kind, Kinds


@pytest.mark.parametrize(
    ("versions", "served", "wanted"),
    [
        ({"v1": False, "v2": True}, ("v1", "v2"), "v2"),
        ({"v1": True, "v2": False}, ("v1", "v2"), "v1"),
        ({"v1": False, "v2": False, "v3": True}, ("v1", "v2"), "v1"),
    ],
    ids=["the second is stored", "the first is stored", "the stored one is not served"],
)
def test_those_who_read_all_kinds_read_what_is_stored(
    versions: dict[str, bool], served: tuple[str, ...], wanted: str
) -> None:
    definition = {"spec": {"versions": [{"name": name, "storage": stored} for name, stored in versions.items()]}}
    kinds = Kinds()
    kinds.serve("things.g.io", tuple(Kind("g.io", v, "things", "Thing", definition=definition) for v in served))
    assert [kind.version for kind in kinds.stored() if kind.collection == "g.io/things"] == [wanted]
