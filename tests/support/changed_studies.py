"""Studies whose fixed files a test rewrites, which nothing else does."""

from __future__ import annotations

from histotune.storage.study_folder import StudyFolder


def reread(store: StudyFolder) -> StudyFolder:
    """Let a study read its settings and its split anew; returns it."""
    for name in ("settings", "split"):
        vars(store).pop(name, None)
    return store
