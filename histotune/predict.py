"""Tells who loads an MLflow model of version 0.1.0 what to do: its code imports this module, whose content moved."""

raise ImportError(
    "this MLflow model was logged by histotune 0.1.0, whose code later versions cannot run. Load it with "
    "histotune==0.1.0, or open its artifact folder `export` with histotune.load(FOLDER)"
)
