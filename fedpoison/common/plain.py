"""Text of somebody else's, as it may be shown: in one line, and nothing in it that a terminal would obey."""

MOST = 200
"""Characters of what a client says that are kept."""


def plain(text: str, most: int | None = None) -> str:
    """The text with what cannot be printed escaped, as \\x1b is; cut after so many characters, if that is given."""
    cut = text if most is None or len(text) <= most else text[:most] + "…"
    if cut.isprintable():
        return cut
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in cut)


def lettered(text: str) -> str:
    """Text for matplotlib, as it is: a dollar begins no formula, and a label that begins with _ is not left out."""
    lines = "\n".join(map(plain, text.split("\n"))).replace("$", r"\$")
    return r"$\_$" + lines[1:] if lines.startswith("_") else lines
