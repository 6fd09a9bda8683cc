"""Where a result comes from: the command, the time, and a short name of its content."""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import UTC, datetime


def shell_command() -> str:
    """Return the command line of this process, with the program's plain name."""
    return " ".join(["histotune", *sys.argv[1:]])


def utc_time() -> str:
    """Return the time now in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def short_digest(content: object, length: int = 12) -> str:
    """Return the first hexadecimal digits of a SHA-256.

    Args:
        content: bytes and text (as UTF-8) as they are; anything else as JSON with sorted keys.
        length: number of digits.

    >>> short_digest({"b": 1, "a": 2}) == short_digest('{"a": 2, "b": 1}')
    True
    """
    text = content if isinstance(content, str | bytes) else json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:length]
