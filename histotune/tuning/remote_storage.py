"""What nodes without a common disk share: study files, cohorts and trial folders under one URI that all reach."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from histotune.core import files
from histotune.core.provenance import short_digest
from histotune.data.cohort import COHORT, load, training_files
from histotune.errors import ConfigError, StudyError
from histotune.storage import layout
from histotune.storage.study_folder import StudyFolder

STUDY_FILES = (layout.STUDY, layout.SPLIT, layout.LABELS)  # never what lies under the seal


@dataclass(frozen=True)
class RemoteStorage:
    """A study's part of the storage.

    Args:
        uri: of the study in the storage, such as `s3://bucket/runs/idc`.
    """

    uri: str

    @classmethod
    def of(cls, storage: str, store: StudyFolder) -> RemoteStorage:
        """Return the study's part of `storage`, with the study's files in it.

        Raises:
            ConfigError: fsspec does not know the protocol.
            StudyError: the storage cannot be written to, or holds another study of this name.
        """
        remote = cls(f"{storage.rstrip('/')}/{store.folder.name}")
        mine = (store.folder / layout.STUDY).read_bytes()
        with remote._reached():
            there = remote._read(layout.STUDY)
            if there is not None and there != mine:
                raise StudyError(f"{remote.uri} holds another study of this name: give another --storage or --study")
            for name in reversed(STUDY_FILES):
                remote._put(store.folder / name, name)
        return remote

    def offer_cohort(self, folder: Path) -> None:
        """Put a prepared cohort where other nodes find it."""
        place = f"cohorts/{folder.name}"
        with self._reached():
            if self._read(f"{place}/{COHORT}") is None:
                for name in training_files(folder):
                    self._put(folder / name, f"{place}/{name}")

    def cohort(self, folder: Path, cache: Path) -> Path:
        """Return a node's own copy of the cohort that the driver has in `folder`, made once for all its processes."""
        if (folder / COHORT).exists():
            return folder
        mine, place = cache / "nodes" / folder.name, f"cohorts/{folder.name}"
        with files.lock(cache / "nodes" / f".{folder.name}" / layout.LOCK, "copying a cohort", wait=True):
            if not (mine / COHORT).exists():
                with self._reached():
                    self._get(f"{place}/{COHORT}", mine / ".arriving" / COHORT)
                    for name in training_files(mine / ".arriving"):
                        self._get(f"{place}/{name}", mine / name)
        load(mine)
        return mine

    def study(self, cache: Path) -> StudyFolder:
        """Return a node's own folder of the study, with the files that a trial reads."""
        name = f"{self.uri.rpartition('/')[2]}-{short_digest(self.uri)}"
        store = StudyFolder(cache / "nodes" / "studies" / name)
        with files.lock(store.folder.parent / f".{name}" / layout.LOCK, "copying a study", wait=True), self._reached():
            for file in STUDY_FILES:
                self._get(file, store.folder / file)
        return store

    def pull(self, folder: Path) -> None:
        """Bring a trial folder up to what the storage has of it, the record of its end last.

        Checkpoints that are kept for other trials stay there: `bring` gets the one that is needed.
        """
        place = f"{layout.TRIALS}/{folder.name}"
        with self._reached():
            for name in sorted(self._files(place), key=lambda name: name == layout.RECORD):
                if not fnmatch.fnmatch(name, layout.KEPT_CHECKPOINTS):
                    self._get(f"{place}/{name}", folder / name)

    def pull_all(self, store: StudyFolder) -> None:
        """Bring every trial that has not ended in the study's folder up to what the storage has of it."""
        with self._reached():
            result = [store.folder / layout.TRIALS / name for name in self._names(layout.TRIALS)]
        for folder in result:
            if not (folder / layout.RECORD).exists():
                self.pull(folder)

    def push(self, folder: Path, sent: dict[str, int]) -> None:
        """Store what changed in a trial folder since `sent`, {name: time}, which is brought up to date."""
        place = f"{layout.TRIALS}/{folder.name}"
        with self._reached():
            names = {
                path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
                for path in folder.rglob("*")
                if path.is_file() and not path.name.startswith(".")
            }
            for name in sorted(names.keys(), key=lambda name: (name == layout.RECORD, name)):
                if sent.get(name) != names[name]:
                    self._put(folder / name, f"{place}/{name}")
                    sent[name] = names[name]
            if layout.RECORD in names:
                for name in self._files(place):
                    if name.rpartition("/")[2] in (layout.CHECKPOINT, layout.STOP):
                        self._system.rm(self._at(f"{place}/{name}"))

    def send(self, folder: Path, name: str) -> None:
        """Store one file of a trial folder."""
        with self._reached():
            self._put(folder / name, f"{layout.TRIALS}/{folder.name}/{name}")

    def bring(self, path: Path) -> None:
        """Bring one file of a trial folder, if the storage has it."""
        if self.has(path.parent, path.name):
            with self._reached():
                self._get(f"{layout.TRIALS}/{path.parent.name}/{path.name}", path)

    def find(self, pattern: str) -> list[Path]:
        """Return the files of the study in the storage that match, relative to it."""
        with self._reached():
            self._system.invalidate_cache()
            root = self._at("")
            return [Path(str(path).removeprefix(root)) for path in self._system.glob(self._at(pattern))]

    def remove(self, folder: Path, name: str) -> None:
        """Remove one file of a trial folder from the storage, if it is there."""
        if self.has(folder, name):
            with self._reached():
                self._system.rm(self._at(f"{layout.TRIALS}/{folder.name}/{name}"))

    def has(self, folder: Path, name: str) -> bool:
        """Whether the storage has that file of a trial folder."""
        with self._reached():
            return bool(self._system.exists(self._at(f"{layout.TRIALS}/{folder.name}/{name}")))

    @property
    def _system(self) -> Any:
        return fsspec.core.url_to_fs(self.uri)[0]

    def _at(self, name: str) -> str:
        return f"{fsspec.core.url_to_fs(self.uri)[1]}/{name}"

    def _read(self, name: str) -> bytes | None:
        try:
            return bytes(self._system.cat_file(self._at(name)))
        except FileNotFoundError:
            return None

    def _names(self, place: str) -> list[str]:
        system, at = self._system, self._at(place)
        system.invalidate_cache()
        result = system.ls(at, detail=False) if system.exists(at) else []
        return [str(name).rstrip("/").rpartition("/")[2] for name in result]

    def _files(self, place: str) -> list[str]:
        """Return the files at a place and below it, relative to it."""
        system, at = self._system, self._at(place)
        system.invalidate_cache()
        return [str(name).removeprefix(f"{at}/") for name in system.find(at)]

    def _put(self, source: Path, name: str) -> None:
        """Store a file, whole: under another name first, where a half-written file would be seen."""
        target = self._at(name)
        self._system.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._system.put_file(str(source), target + ".part")
        self._system.mv(target + ".part", target)

    def _get(self, name: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
        try:
            self._system.get_file(self._at(name), part)
            Path(part).replace(target)
        finally:
            Path(part).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, ImportError) as error:
            raise ConfigError(f"--storage {self.uri}: {error}") from error
        except OSError as error:
            raise StudyError(f"the storage {self.uri} cannot be used: {error}") from error
