"""Where a worker trains: in the folder of the study, or in a copy on its node, synchronised with remote storage."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histotune.core.registry import load_plugins
from histotune.core.runtime import Places
from histotune.data.cohort import Cohort, load
from histotune.errors import StudyError, TrialFailed
from histotune.storage import layout
from histotune.storage.records import Parent, write_parent
from histotune.storage.study_folder import StudyFolder
from histotune.training.checkpoint import Checkpoint
from histotune.tuning.remote_storage import RemoteStorage

ADVICE = "give --storage URI, or put --runs and --cache where all nodes see them"


class TrialWorkspace:
    """Folder in which a worker trains one trial.

    Args:
        assignment: what the driver sent: `study`, `number` and `remote`, the storage's URI or None.
        studies: {URI: the node's copy of the study}, kept from trial to trial.

    Attributes:
        store: the study; `folder`: the trial's folder.

    Raises:
        StudyError: this node does not see the study.
    """

    def __init__(self, assignment: Mapping[str, Any], studies: dict[str, StudyFolder]) -> None:
        uri = assignment["remote"]
        self._remote = RemoteStorage(uri) if uri else None
        self._sent: dict[str, int] = {}
        if self._remote and uri not in studies:
            studies[uri] = self._remote.study(Places.of().cache)
        self.store = studies[uri] if uri else StudyFolder(Path(assignment["study"]))
        if not self.store.exists():
            raise StudyError(f"node {socket.gethostname()} cannot read the study {self.store.folder}: {ADVICE}")
        self.folder = self.store.trial_folder(assignment["number"])
        if self._remote:
            shutil.rmtree(self.folder, ignore_errors=True)  # what an earlier search left on this node may be behind
            self._remote.pull(self.folder)

    def stop_asked(self) -> bool:
        """Whether the driver asked to end the trial."""
        return (self.folder / layout.STOP).exists() or (
            self._remote is not None and self._remote.has(self.folder, layout.STOP)
        )

    def deliver(self) -> None:
        """Bring what the trial wrote to where the driver sees it."""
        if self._remote and self.folder.exists():
            self._remote.push(self.folder, self._sent)

    def inherit(self, parent: Parent, digest: str) -> None:
        """Let the trial, whose configuration has `digest`, begin where its parent stood, unless it has begun.

        Raises:
            TrialFailed: what it was to begin from is gone.
            StudyError: that is no checkpoint.
        """
        checkpoint = Checkpoint(self.folder)
        if checkpoint.path.exists():
            return
        source = self.store.trial_folder(parent.number) / layout.kept_checkpoint(parent.epoch)
        if self._remote and not source.exists():
            self._remote.bring(source)
        if not source.exists():
            raise TrialFailed("bad_data", f"the checkpoint of trial {parent.number} after epoch {parent.epoch} is gone")
        write_parent(self.folder, parent)
        checkpoint.inherit(source, digest)

    def cohort(self, folder: Path) -> Cohort:
        """Open the prepared cohort, memory-mapped; a node that lacks it copies it once from the storage."""
        if self._remote:
            return load(self._remote.cohort(folder, Places.of().cache))
        if not folder.exists():
            raise StudyError(f"node {socket.gethostname()} cannot read the prepared cohort {folder}: {ADVICE}")
        return load(folder)


def pack(folders: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Read plugin folders, so that they reach workers on nodes that do not see them."""
    return {str(folder): {p.name: p.read_text(encoding="utf-8") for p in folder.glob("*.py")} for folder in folders}


def unpack(plugins: Mapping[str, Mapping[str, str]]) -> None:
    """Load packed plugins, from their own folder where this node sees it."""
    for name, texts in plugins.items():
        folder = Path(name)
        if not folder.is_dir():
            folder = Path(tempfile.mkdtemp(prefix="ht-plugins-"))  # kept: a traceback shall show its lines
            for file, text in texts.items():
                (folder / file).write_text(text, encoding="utf-8")
        load_plugins(folder)
