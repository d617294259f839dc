# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The loss over the steps as an SVG drawing. Pure; needs no plotting library."""

from __future__ import annotations

from collections.abc import Sequence

from kaito.runtime.tune.job import Point

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 24, 36
TRAINED, EVALUATED = "#2563eb", "#dc2626"


def svg(points: Sequence[Point]) -> str:
    """The drawing; with no points an empty frame."""
    trained = [(point.step, point.loss) for point in points if point.loss is not None]
    evaluated = [(point.step, point.eval_loss) for point in points if point.eval_loss is not None]
    everything = [*trained, *evaluated] or [(0, 0.0)]
    last = max(step for step, _ in everything) or 1
    low, high = min(loss for _, loss in everything), max(loss for _, loss in everything)
    high = high if high > low else low + 1

    def place(step: int, loss: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / last
        return round(x, 1), round(TOP + (HEIGHT - TOP - BOTTOM) * (high - loss) / (high - low), 1)

    parts = [_frame(), *(_level(loss, place(0, loss)[1]) for loss in (low, (low + high) / 2, high))]
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 12, f"step {last}", "end"))
    for values, colour, name, x in ((trained, TRAINED, "loss", LEFT), (evaluated, EVALUATED, "eval loss", LEFT + 80)):
        if values:
            line = " ".join(f"{x},{y}" for x, y in (place(step, loss) for step, loss in values))
            parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{line}"/>')
            parts.append(_text(x, 14, name, "start", colour))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    return "\n".join([head, *parts, "</svg>"]) + "\n"


def _frame() -> str:
    size = f'width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"'
    white = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
    return f'{white}<rect x="{LEFT}" y="{TOP}" {size} fill="none" stroke="#d1d5db"/>'


def _level(loss: float, y: float) -> str:
    return _text(LEFT - 6, y + 4, f"{loss:.3g}", "end")


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#374151") -> str:
    return f'<text x="{x}" y="{y}" font-size="11" text-anchor="{anchor}" fill="{colour}">{text}</text>'
