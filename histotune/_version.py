"""The version, of which every part may speak."""

__version__ = "0.2.0"
