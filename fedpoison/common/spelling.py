"""Words that are not known, and those that may have been meant."""

import difflib
from collections.abc import Iterable


def close(word: str, known: Iterable[str]) -> str | None:
    """The known word that looks most like it, if one does; hyphens, spaces and underscores are alike."""
    plain = {folded(name): name for name in known}
    found = difflib.get_close_matches(folded(word), plain, n=1)
    return plain[found[0]] if found else None


def folded(word: str) -> str:
    """A word without what does not tell it from others: capitals, and how its parts are joined."""
    return word.strip().lower().replace("-", "_").replace(" ", "_")


def hint(word: str, known: Iterable[str]) -> str:
    """ "did you mean …? ", for what comes before the list of all that there is; nothing if no word is close."""
    found = close(word, known)
    return f"did you mean {found!r}? " if found else ""


def among(word: str, known: Iterable[str], noun: str) -> str:
    """What there is instead of an unknown word, for an error's sentence."""
    names = sorted(known)
    return hint(word, names) + (f"the {noun} are {', '.join(names)}" if names else f"it has no {noun}")
