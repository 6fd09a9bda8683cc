"""Callbacks by which long work reports its progress and messages."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Is called with what is being done, how many of its steps are done, and how many there are."""

Message = Callable[[str], None]
"""Is called with a line for a person."""


def silent(*_: object) -> None:
    """Show nothing: a `Progress` or `Message` for a caller who gave none."""
