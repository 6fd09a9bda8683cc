"""One walk through a folder of files, for training, prediction and slides alike: what is read, and what is passed over.

Folders that are links are followed, links that lead back into themselves are not. What is not read is listed with the
reason, and never ends in an error: files that links promise and that are gone, hidden copies, formats that nothing here
reads, folders without permission, names that are no text, and files of one folder that differ in their ending only.
"""

from __future__ import annotations

import os
import stat as modes
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from histotune.ingest.datasets._base import Problem

HARMLESS = frozenset({"hidden", "loop"})  # kinds of what is passed over on purpose: `strict` does not mind them
# Endings of what lies beside images and is none.
_BESIDE = frozenset(
    f".{ending}"
    for endings in (
        ("csv", "tsv", "txt", "md", "rst", "json", "jsonl", "geojson", "yaml", "yml", "toml", "xml", "html", "htm"),
        ("pdf", "doc", "docx", "xls", "xlsx", "ods", "bib", "tex", "ini", "cfg", "log", "lock", "md5", "sha256"),
        ("db", "sqlite", "parquet", "pq", "feather", "py", "ipynb", "r", "m", "sh", "bat"),
        ("annotations", "qpdata", "qpproj"),
    )
    for ending in endings
)
_NOTES = frozenset({"readme", "license", "licence", "changelog", "makefile", "checksums", "manifest", "md5sums"})
_STORES = frozenset({".zarr", ".n5", ".dicomdir"})  # a folder that is one image
_COMPANIONS = frozenset({".mrxs"})  # a slide whose data lie in a folder of its name
Skip = Callable[[str, Collection[str]], bool]


class FoundFile(NamedTuple):
    """A file that can be read: its path relative to the folder, with slashes, and its stat, links followed."""

    path: str
    stat: os.stat_result


@dataclass(frozen=True)
class Walked:
    """What lies in a folder.

    Attributes:
        files: what can be read, in the order of their paths.
        problems: what is passed over, or kept but odd, in the order of their paths; `kind` is `missing`, `loop`,
            `hidden`, `unread_format`, `unreadable`, `bad_name`, `same_name` (kept) or `not_searched`.
    """

    files: list[FoundFile]
    problems: list[Problem]


def walk(root: Path, suffixes: Collection[str], *, deep: bool = True, skip: Skip | None = None) -> Walked:
    """List the files of a folder by what can be read of them.

    Args:
        root: the folder.
        suffixes: endings that are read, in lower case, with their dot.
        deep: whether folders in it are searched, too.
        skip: is called with the path of a folder, relative to the root, and the names of the folders beside it; true
            where it is passed over without a word.
    """
    files, problems = list[FoundFile](), list[Problem]()
    outside = [place.stat() for place in root.resolve().parents]  # a link to one of them leads back here, too
    todo = [("", frozenset((info.st_dev, info.st_ino) for info in outside))]
    while todo:
        prefix, above = todo.pop()
        place = os.path.join(root, prefix)  # noqa: PTH118  (a hot path: no Path object)
        try:
            info = os.stat(place)  # noqa: PTH116
            me = (info.st_dev, info.st_ino)
            if me in above:
                problems.append(Problem(_text(prefix[:-1]), "loop", "the link leads to a folder that it lies in"))
                continue
            with os.scandir(place) as result:
                entries = sorted(result, key=lambda entry: entry.name)
        except OSError as error:
            problems.append(Problem(_text(prefix[:-1]) or ".", "unreadable", f"{error.strerror or error}"))
            continue
        folders, shown = _sorted_out(entries, prefix, suffixes, files, problems)
        own = {name[: -len(end)] for name in shown for end in _COMPANIONS if name.lower().endswith(end)}
        for name in folders:
            path = prefix + name
            if name in own or (skip is not None and skip(path, folders)):
                continue
            if name.startswith("."):
                if count := _images_in(os.path.join(root, path), suffixes):  # noqa: PTH118
                    problems.append(Problem(_text(path), "hidden", f"a hidden folder with {count} files is not read"))
            elif os.path.splitext(name)[1].lower() in _STORES:  # noqa: PTH122
                problems.append(Problem(_text(path), "unread_format", _unread(name)))
            elif deep:
                todo.append((f"{path}/", above | {me}))
            else:
                problems.append(Problem(_text(path), "not_searched", "a folder, where files are expected"))
    files.sort(key=lambda file: file.path.split("/"))
    problems.sort(key=lambda problem: problem.path.split("/"))
    return Walked(files, problems)


def summary(problems: Iterable[Problem]) -> str:
    """Count problems by kind, with an example of each; "" where there are none.

    >>> summary([Problem("a.dcm", "unread_format", "not read"), Problem("b.dcm", "unread_format", "not read")])
    '2 unread_format (such as a.dcm)'
    """
    problems = list(problems)
    first = {problem.kind: problem.path for problem in reversed(problems)}
    counts = Counter(problem.kind for problem in problems)
    return ", ".join(f"{count} {kind} (such as {first[kind]})" for kind, count in counts.items())


def refused(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems that `strict` minds: files that are left out although they are meant to be read."""
    return [problem for problem in problems if not problem.kept and problem.kind not in HARMLESS]


def _sorted_out(
    entries: Iterable[os.DirEntry[str]],
    prefix: str,
    suffixes: Collection[str],
    files: list[FoundFile],
    problems: list[Problem],
) -> tuple[list[str], list[str]]:
    """Add the files of one folder to `files` and `problems`; returns the names of its folders and of files read."""
    folders, shown, stems = list[str](), list[str](), dict[str, str]()
    for entry in entries:
        name = entry.name
        stem, ending = os.path.splitext(name)  # noqa: PTH122
        wanted = ending.lower() in suffixes
        try:
            if entry.is_dir():
                folders.append(name)
                continue
            if name.startswith("."):
                if wanted:
                    problems.append(Problem(_text(prefix + name), "hidden", "a hidden file is not read"))
                continue
            if not wanted and (ending.lower() in _BESIDE or stem.lower() in _NOTES):
                continue
            info = entry.stat()
        except OSError as error:
            gone = isinstance(error, FileNotFoundError)
            reason = "the link leads to a file that is not there" if gone else f"{error.strerror or error}"
            problems.append(Problem(_text(prefix + name), "missing" if gone else "unreadable", reason))
            continue
        if not modes.S_ISREG(info.st_mode):
            problems.append(Problem(_text(prefix + name), "unreadable", "it is no regular file"))
        elif not wanted:
            problems.append(Problem(_text(prefix + name), "unread_format", _unread(name)))
        elif _text(name) != name:
            problems.append(Problem(_text(prefix + name), "bad_name", "the name is not in UTF-8: rename the file"))
        else:
            if stem in stems:
                reason = f"{stems[stem]} beside it differs in its ending only; both are kept"
                problems.append(Problem(prefix + name, "same_name", reason, kept=True))
            stems.setdefault(stem, name)
            shown.append(name)
            files.append(FoundFile(prefix + name, info))
    return folders, shown


def _images_in(folder: str, suffixes: Collection[str]) -> int:
    """Count the files that a hidden folder would have, without following links."""
    endings = (os.path.splitext(name)[1].lower() for _, _, names in os.walk(folder) for name in names)  # noqa: PTH122
    return sum(ending in suffixes for ending in endings)


def _unread(name: str) -> str:
    ending = os.path.splitext(name)[1].lower()  # noqa: PTH122
    return f"files {'that end in ' + ending if ending else 'without an ending'} are not read here"


def _text(name: str) -> str:
    """Return a path as text that can be written, also where it is not in UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
