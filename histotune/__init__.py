"""histotune: search, compare, combine and honestly test classifiers for histopathology."""

from __future__ import annotations

__version__ = "0.1.0"
