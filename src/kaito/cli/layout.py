# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Tables and paragraphs for people: aligned columns that never break a word, and sentences that wrap between words.

Written for 80 columns. Into a pipe nothing is wrapped, so that grep and awk see whole lines.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

GAP = "  "

Cell = str | Text


def table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[Text]:
    """One line for the header and for each row; every column as wide as its widest cell."""
    cells = [[Text(word, "bold") for word in header], *([as_text(cell) for cell in row] for row in rows)]
    widths = [max(cell.cell_len for cell in column) for column in zip(*cells, strict=True)]
    return [_line(row, widths) for row in cells]


def _line(row: Sequence[Text], widths: Sequence[int]) -> Text:
    padded = [cell.copy() for cell in row]
    for cell, width in zip(padded[:-1], widths[:-1], strict=True):
        cell.pad_right(width - cell.cell_len)
    line = Text(GAP).join(padded)
    line.rstrip()
    line.no_wrap = True
    return line


def as_text(cell: Cell) -> Text:
    """The cell as text that is never read as markup."""
    return cell if isinstance(cell, Text) else Text(cell)


def paragraph(text: str, *, indent: int = 0, width: int | None = None) -> list[Text]:
    """The text below `indent` spaces, in lines of at most `width` columns; in one line when there is no width."""
    if width is None:
        return [Text(" " * indent + text)]
    lines = textwrap.wrap(text, max(width - indent, 20), break_long_words=False, break_on_hyphens=False)
    return [Text(" " * indent + line) for line in lines]


def width_of(console: Console) -> int | None:
    """The columns of the terminal, or None where the output is no terminal."""
    return console.width if console.is_terminal else None


def show(console: Console, lines: Sequence[Text]) -> None:
    """Print the lines as they are."""
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
