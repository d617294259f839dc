# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How long each Workspace has been in its phase, for somebody who watches. The caller looks, and says when."""

from __future__ import annotations

from dataclasses import dataclass, field

from kaito.cli import phases
from kaito.kube.manifest import Key, Manifest, key_of

READY = len(phases.PHASES) - 1


@dataclass(slots=True)
class _Seen:
    phase: int
    first_at: float
    since: float
    was_on_its_way: bool


@dataclass(slots=True)
class Progress:
    """Remembers when each Workspace reached the phase that it is in."""

    _seen: dict[Key, _Seen] = field(default_factory=dict)

    def look(self, workspace: Manifest, pod: Manifest | None, at: float) -> tuple[str, str]:
        """The phase in words and its seconds: so far, or, for a Workspace that was seen getting Ready, in all."""
        key, phase = key_of(workspace), phases.phase_index(workspace, pod)
        seen = self._seen.setdefault(key, _Seen(phase, at, at, was_on_its_way=phase != READY))
        if phase != seen.phase:
            if seen.phase == READY:
                seen.first_at, seen.was_on_its_way = at, True
            seen.phase, seen.since = phase, at
        if phase != READY:
            return phases.PHASES[phase], f"{at - seen.since:.0f} s"
        if not seen.was_on_its_way:
            return phases.PHASES[phase], ""
        return phases.PHASES[phase], f"after {seen.since - seen.first_at:.1f} s"
