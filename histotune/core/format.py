"""Numbers as a person reads them."""

from __future__ import annotations


def megabytes(size: float) -> str:
    """Write a number of bytes for a person.

    >>> megabytes(3_500_000), megabytes(81_000_000_000)
    ('4 MB', '81.0 GB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
