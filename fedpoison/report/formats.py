"""A table of words in the formats that it is wanted in."""

import re
from collections.abc import Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

_BORDER = 3
"""Characters that a column of a terminal's table takes beside its content."""
_PART = re.compile(r"[^+ ]*[+ ]|[^+ ]+")
"""What a heading may be broken into."""
_LEAST = 8
"""Characters that a key's column keeps."""


def text(heads: Sequence[str], body: Sequence[Sequence[str]], names: int, width: int) -> list[Table]:
    """Tables for a terminal of so many characters: as many columns in one as fit, the first `names` in each.

    No number is cut: headings and keys are wrapped, and what does not fit goes to the next table.
    """
    columns = [(head, [line[i] for line in body]) for i, head in enumerate(heads)]
    words = [(head, cells if i >= names else " ".join(cells).split()) for i, (head, cells) in enumerate(columns)]
    needs = [max(map(cell_len, [*map(str.rstrip, _PART.findall(head)), *cells])) for head, cells in words]
    wants = [max(map(cell_len, [head, *cells])) for head, cells in columns]
    keys = _room(range(names), needs, width)
    if len(heads) > names and keys < (widest := max(needs[names:]) + _BORDER):  # the keys' words have to be broken
        longest = max(range(names), key=lambda i: needs[i])
        needs[longest] = wants[longest] = max(_LEAST, needs[longest] + keys - widest)
    parts: list[list[int]] = [[*range(names)]]
    for column in range(names, len(heads)):
        if len(parts[-1]) > names and _room([*parts[-1], column], needs, width) < 0:
            parts.append([*range(names)])
        parts[-1].append(column)
    return [_table([columns[i] for i in part], names, _widths(part, names, needs, wants, width)) for part in parts]


def _room(part: Sequence[int], needs: Sequence[int], width: int) -> int:
    """The characters that so many are left beside these columns."""
    return width - 1 - sum(needs[i] + _BORDER for i in part)


def _widths(part: Sequence[int], names: int, needs: Sequence[int], wants: Sequence[int], width: int) -> list[int]:
    """What each column wants as long as there is room, else what it needs; a key takes what room there is."""
    room, widths = _room(part, needs, width), []
    for i in part:
        more = wants[i] - needs[i]
        more = min(more, max(room, 0)) if i < names else more * (more <= room)
        widths.append(needs[i] + more)
        room -= more
    return widths


def _table(columns: Sequence[tuple[str, list[str]]], names: int, widths: Sequence[int]) -> Table:
    made = Table()
    for i, ((head, _), width) in enumerate(zip(columns, widths, strict=True)):
        made.add_column(
            Text(_wrapped(head, width)), justify="left" if i < names else "right", width=width, overflow="fold"
        )
    for line in zip(*(cells for _, cells in columns), strict=True):
        made.add_row(*map(Text, line))
    return made


def _wrapped(head: str, width: int) -> str:
    """A heading in lines of at most so many characters."""
    lines = [""]
    for part in _PART.findall(head):
        if lines[-1] and cell_len(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


_MARKED = re.compile(r"[\\|<`*\[]")
"""What Markdown would take for its own; an underscore within a word it does not."""


def markdown(heads: list[str], body: list[list[str]], names: int) -> str:
    """A table that reads well as it is, too."""
    lines = [[_MARKED.sub(r"\\\g<0>", cell) for cell in line] for line in (heads, *body)]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(heads))]
    rule = ["-" * width if i < names else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    padded = [
        [
            cell.ljust(width) if i < names else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in (padded[0], rule, *padded[1:]))


_TEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"}
_TEX |= {"≥": r"$\geq$"}
_TEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "…": r"\ldots{}"}


def latex(heads: list[str], body: list[list[str]], names: int, notes: Sequence[str]) -> str:
    """A booktabs table; needs nothing but that package."""

    def row(cells: list[str]) -> str:
        return " & ".join("".join(_TEX.get(letter, letter) for letter in cell) for cell in cells) + r" \\"

    captions = ["% " + "".join(_TEX.get(letter, letter) for letter in note) for note in notes]
    lines = [r"% \usepackage{booktabs}", rf"\begin{{tabular}}{{{'l' * names}{'r' * (len(heads) - names)}}}"]
    lines += [r"\toprule", row(heads), r"\midrule", *map(row, body), r"\bottomrule", r"\end{tabular}", *captions]
    return "\n".join(lines)
