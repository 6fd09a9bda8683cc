"""What a cell of somebody's table means: a missing value, and whether two names are one in different spellings."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from histotune.core.format import counted
from histotune.errors import DataError

# As NumPy, pandas, R, Excel, SPSS, cBioPortal and the TCGA clinical files write that there is no value.
_MISSING = re.compile(
    r"|n/?a|n\.a\.|#n/a|nan|<na>|null|nil|--+|\?+|\.|\[discrepancy\]|"
    r"\[?\s*(missing|unknown|n/a|not (available|applicable|evaluated|reported|known))\s*\]?",
    re.IGNORECASE,
)
_WHOLE = re.compile(r"([+-]?)0*(\d+)(?:\.0*)?")


def is_missing(cell: str) -> bool:
    """Return whether a cell says that there is no value.

    A single hyphen does not, which stands beside `+` for a negative receptor, say.

    >>> [is_missing(cell) for cell in ("", " NA ", "[Not Available]", "--", "none", "-", "0", "unknown cause")]
    [True, True, True, True, False, False, False, False]
    """
    return _MISSING.fullmatch(cell.strip()) is not None


def spelling(name: str) -> str:
    """Return what spellings of a name have in common: case, blanks, hyphens and zeros of whole numbers aside.

    >>> spelling("Tumour_Cell "), spelling("tumour-cell"), spelling("HER2-"), spelling("007"), spelling("7.0")
    ('tumour cell', 'tumour cell', 'her2-', '7', '7')
    """
    text = " ".join(re.sub(r"(?<=\w)[\s_-]+(?=\w)|_", " ", name).split()).casefold()  # HER2- is not HER2
    number = _WHOLE.fullmatch(name.strip())
    return f"{number[1].replace('+', '')}{number[2]}" if number else text


def refuse_spellings(names: Iterable[str], what: str, cure: str) -> None:
    """Refuse names of which two are one in different spellings.

    Args:
        names: as they are written.
        what: they are, one and several of them, such as "class" and "classes" in "class classes".
        cure: what to do.

    Raises:
        DataError: names both.
    """
    known: defaultdict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        known[spelling(name)].append(name)
    alike = [sorted(spelled) for spelled in known.values() if len(spelled) > 1]
    if alike:
        one, other = alike[0][:2]
        more = f", and {counted(len(alike) - 1, 'more pair')} of such" if len(alike) > 1 else ""
        raise DataError(f"{what} {one!r} and {other!r} differ only in how they are written{more}. {cure}")
