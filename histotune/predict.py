"""Tells who loads an MLflow model of version 0.1.0 what to do: its code imports `Export` and `load` from here."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Refuse what such a model imports, with a sentence."""
    if name in ("Export", "load"):
        raise ImportError(
            "this MLflow model was logged by histotune 0.1.0, whose code later versions cannot run. Load it with "
            "histotune==0.1.0, or open its artifact folder `export` with histotune.load(FOLDER)"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
