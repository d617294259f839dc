# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A curve drawn with the dots of Braille characters, eight to each: 60 columns show 120 steps. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

BLANK = 0x2800
"""The Braille character without dots; a bit for each dot is added to it (https://unicode.org/charts/PDF/U2800.pdf)."""
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bits, by row and column of the character."""
MARK = "o"
"""Where the model was evaluated."""
Point = tuple[int, float]
"""Step and loss."""


def plot(trained: Sequence[Point], evaluated: Sequence[Point] = (), *, width: int = 60, height: int = 8) -> list[str]:
    """The lines of the drawing, so many characters wide and high without its labels; none for less than two points."""
    trained, evaluated = ([one for one in points if math.isfinite(one[1])] for points in (trained, evaluated))
    if len(trained) < 2:
        return []
    everything = [*trained, *evaluated]
    first, last = min(step for step, _ in everything), max(step for step, _ in everything)
    low, high = min(loss for _, loss in everything), max(loss for _, loss in everything)

    def dot(point: Point) -> tuple[int, int]:
        across = (point[0] - first) / ((last - first) or 1)
        down = (high - point[1]) / ((high - low) or 1)
        return round(across * (2 * width - 1)), round(down * (4 * height - 1))

    bits = [[0] * width for _ in range(height)]
    for start, end in pairwise(map(dot, trained)):
        for x, y in _line(start, end):
            bits[y // 4][x // 2] |= DOTS[y % 4][x % 2]
    cells = [[chr(BLANK + one) for one in row] for row in bits]
    for x, y in map(dot, evaluated):
        cells[y // 4][x // 2] = MARK
    labels = {0: f"{high:.3f}", height - 1: f"{low:.3f}"}
    wide = max(map(len, labels.values()))
    lines = [f"{labels.get(number, ''):>{wide}} ┤{''.join(row)}" for number, row in enumerate(cells)]
    steps = f"step {first}"
    return [*lines, f"{'':>{wide}}  {steps}{last:>{width - len(steps)}}"]


def _line(start: tuple[int, int], end: tuple[int, int]) -> Iterable[tuple[int, int]]:
    """The dots from one to the other."""
    count = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    for number in range(count + 1):
        share = number / count
        yield round(start[0] + share * (end[0] - start[0])), round(start[1] + share * (end[1] - start[1]))
