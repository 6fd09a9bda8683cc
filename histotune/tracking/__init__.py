"""The mirror of a study in MLflow."""
