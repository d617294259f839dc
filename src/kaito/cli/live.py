# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The live view of `kaito up`: every Workspace, its phase with its seconds, and what it waits for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from kaito.api.kinds import WORKSPACES
from kaito.cli import get, layout, phases
from kaito.cli.progress import Progress
from kaito.kube.client import Client
from kaito.kube.config import load_kubeconfig
from kaito.kube.errors import ApiError
from kaito.kube.manifest import Key, Manifest, key_of
from kaito.kube.resource import PODS


async def look(kubeconfig: Path, seen: Progress, width: int | None) -> RenderableType:
    """What is shown again and again: every Workspace, its phase with its seconds, and what it waits for."""
    try:
        async with Client(load_kubeconfig(kubeconfig)) as client:
            found, _ = await client.list_objects(WORKSPACES)
            pods, _ = await client.list_objects(PODS)
    except (ApiError, ValueError, OSError):
        return Text("The engine is being restarted ...", "yellow")
    if not found:
        return Text("No Workspaces yet.", "dim")
    return Group(*view(found, pods, seen, at=time.monotonic(), width=width))


def view(
    found: Sequence[Manifest], pods: Sequence[Manifest], seen: Progress, *, at: float, width: int | None
) -> list[Text]:
    """The lines of the live view. Namespaces are named once there is more than `default`."""
    with_namespace = any(one["metadata"]["namespace"] != "default" for one in found)
    first_pods = {key_of(pod): pod for pod in pods}
    header = ["NAME", "PHASE", "TIME", "MODEL"]
    rows: list[list[layout.Cell]] = []
    for one in found:
        key = key_of(one)
        pod = first_pods.get(Key(key.namespace, f"{key.name}-0"))
        state = phases.state_of(one)
        phase, seconds = seen.look(one, pod, at)
        shown = get.styled(state) if state in ("Stuck", "Deleting") else Text(phase, get.STYLES.get(state, ""))
        row: list[layout.Cell] = [key.name, shown, seconds, phases.model_of(one)]
        rows.append([key.namespace, *row] if with_namespace else row)
    lines = layout.table(["NAMESPACE", *header] if with_namespace else header, rows)
    return lines + get.reasons(found, width)
