"""Files that are whole or absent: atomic writes, guarded reads, appended lines, and a lock that names its holder.

Files of a study, an export or a prepared cohort are read here: what is damaged, missing or of another
version ends in a `StudyError` that names the file and says what to do.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import socket
import tempfile
import time
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, overload

import yaml

from histotune.core.config import parse
from histotune.errors import ConfigError, HistotuneError, StudyError, StudyInUse

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


T = TypeVar("T")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, the quota is used up, the largest file allowed
RESTORE = "restore it from a copy, or move the whole folder of its trial away"
_UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    EOFError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    yaml.YAMLError,
    zipfile.BadZipFile,
    zlib.error,
)
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary neighbour of `path`, sync it, and put it in place, or leave `path` as it was.

    Raises:
        HistotuneError: the disk is full or the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Put `content` at `path`, whole or not at all."""
    write_atomically(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Put `text` at `path` in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Put `value` at `path` as JSON, whole or not at all; a NaN is written as null."""
    write_text(path, json.dumps(without_nan(value), indent=2, allow_nan=False) + "\n")


def append_json(path: Path, value: Mapping[str, Any]) -> None:
    """Append one line of JSON to `path`; a NaN is written as null."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(without_nan(value), allow_nan=False) + "\n")
    except OSError as error:
        raise unwritable(path, error) from error


class StoredMapping(dict[str, Any]):
    """A mapping that was read from a file; the error for a missing key names the file that lacks it."""

    path = Path()

    def __missing__(self, key: str) -> Any:
        raise damaged(self.path, f"it has no {key!r}; did another version of histotune write it?")


@overload
def read_json(path: Path, *, cure: str = ...) -> dict[str, Any]: ...
@overload
def read_json(path: Path, kind: type[list[Any]], *, cure: str = ...) -> list[Any]: ...
def read_json(path: Path, kind: type[Any] = dict, *, cure: str = RESTORE) -> Any:
    """Read what `write_json` wrote; the mappings in it are `StoredMapping`.

    Args:
        kind: what it must be, `dict` or `list`.
        cure: what to do where it is damaged.

    Raises:
        StudyError: it is missing, damaged, or holds something else.
    """

    def of_file(values: dict[str, Any]) -> StoredMapping:
        saved = StoredMapping(values)
        saved.path = path
        return saved

    value = guarded(path, lambda: json.loads(path.read_text(encoding="utf-8"), object_hook=of_file), cure)
    return _of_kind(path, value, kind, cure)


def read_yaml(path: Path, needs: Iterable[str] = (), *, cure: str = RESTORE) -> dict[str, Any]:
    """Read a mapping from YAML.

    Args:
        needs: the keys without which it is damaged.
        cure: what to do then.

    Raises:
        StudyError: it is missing, damaged, lacks a key, or is no mapping.
    """
    value = guarded(path, lambda: yaml.load(path.read_bytes(), _Loader), cure)
    return _with_keys(path, value, needs, cure)


def read_json_lines(path: Path, needs: Iterable[str] = (), *, cure: str = RESTORE) -> list[dict[str, Any]]:
    """Read a file of JSON lines; a last line that a crash cut short is left out, a missing file has no lines.

    Args:
        needs: the keys without which a line is damaged.
        cure: what to do then.

    Raises:
        StudyError: a line is no JSON, no mapping, or lacks a key.
    """
    if not path.exists():
        return []
    lines = guarded(path, lambda: path.read_text(encoding="utf-8"), cure).splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise damaged(path, f"line {number} is not JSON: {error}", cure) from error
        rows.append(_with_keys(path, value, needs, cure))
    return rows


def restored(kind: type[T], values: Any, path: Path, cure: str = RESTORE) -> T:
    """Build the dataclass `kind` from what the file at `path` holds.

    Args:
        cure: what to do where the file does not hold it.

    Raises:
        StudyError: it is damaged, or of another version.
    """
    try:
        return parse(kind, values, path.name)
    except ConfigError as error:
        raise damaged(path, str(error), cure) from error


def guarded(path: Path, read: Callable[[], T], cure: str = RESTORE) -> T:
    """Return what `read`, a call of one reader of the file at `path`, returns.

    Raises:
        StudyError: the file is missing or damaged.
    """
    try:
        return read()
    except FileNotFoundError as error:
        raise StudyError(f"{path} is missing: {cure}") from error
    except _UNREADABLE as error:
        raise damaged(path, " ".join(str(error).split()), cure) from error


def damaged(path: Path, why: str, cure: str = RESTORE) -> StudyError:
    """Return the error that the file at `path` is damaged, why, and what to do."""
    return StudyError(f"{path} is damaged ({why}): {cure}")


def _of_kind(path: Path, value: Any, kind: type[T], cure: str) -> T:
    if not isinstance(value, kind):
        raise damaged(path, f"it holds {type(value).__name__}, not {kind.__name__}", cure)
    return value


def _with_keys(path: Path, value: Any, needs: Iterable[str], cure: str) -> dict[str, Any]:
    result: dict[str, Any] = _of_kind(path, value, dict, cure)
    if lacking := [name for name in needs if name not in result]:
        raise damaged(path, f"it has no {', '.join(map(repr, lacking))}", cure)
    return result


@contextlib.contextmanager
def lock(path: Path, doing: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the exclusive lock at `path`; the system frees it when the process ends, however it ends.

    Args:
        doing: what for; the message of a refusal repeats it.
        wait: wait for the holder, where it holds the lock for moments only, instead of refusing.

    Raises:
        StudyInUse: another process holds it; the message names that process.
        HistotuneError: the file cannot be written to.
    """
    # the space is the byte that Windows locks, and that no other process can read there
    name = f" process {os.getpid()} on {socket.gethostname()} ({doing}) since {datetime.now():%Y-%m-%d %H:%M:%S}"
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(path.open("a+b", buffering=0))
            if not _take(file, wait=wait):
                raise StudyInUse(f"{path.parent} is in use by {_named(file)}: wait for it to end, or stop it")
            file.truncate(0)
            file.write(name.encode())
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            yield
        finally:
            file.truncate(0)


def holder(path: Path) -> str:
    """Name the process that holds the lock at `path`; "" when it is free, also where a dead process left its name."""
    if not path.exists():
        return ""
    with path.open("r+b" if os.access(path, os.W_OK) else "rb") as file:  # NFS locks only what is open for writing
        return "" if _take(file) else _named(file)


def _take(file: IO[bytes], *, wait: bool = False) -> bool:
    """Take the lock until the file is closed; three attempts, because `holder` takes it for a moment."""
    import filelock  # 0.05 s, which a command that locks nothing does not wait for

    for _ in range(1 if wait else 3):
        if filelock.lock_descriptor(file.fileno(), blocking=wait):
            return True
        time.sleep(0.05)
    return False


def _named(file: IO[bytes]) -> str:
    file.seek(1)
    return file.read().decode().strip() or "an unknown process"


def unwritable(path: Path, error: OSError) -> HistotuneError:
    """Return the error that `path` could not be written, why, and what to do, for the `OSError` of the attempt."""
    why = "the disk is full" if error.errno in FULL else f"{error.strerror or error}"
    return HistotuneError(
        f"cannot write {path}: {why}. Nothing half-written was left behind; free space or choose another folder"
    )


def without_nan(value: Any) -> Any:
    """Replace every NaN and infinity in nested mappings and lists by None, which JSON can hold."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def read_table(
    path: Path, needs: Iterable[str], types: Any, *, gaps: bool = False, cure: str = RESTORE
) -> pd.DataFrame:
    """Read a CSV file that histotune wrote.

    Args:
        needs: its columns; others are kept.
        types: of the columns, as pandas takes them.
        gaps: whether a number may be missing.
        cure: what to do where it is damaged.

    Raises:
        StudyError: it is missing, damaged, or lacks a column.
    """
    import pandas as pd  # 0.3 s, which a command line without tables does not wait for

    def read() -> pd.DataFrame:
        raw = path.read_bytes()
        if not raw.endswith(b"\n"):
            raise ValueError("its last line is cut short")
        return pd.read_csv(io.BytesIO(raw), dtype=types, keep_default_na=gaps)

    table = guarded(path, read, cure)
    if lacking := [name for name in needs if name not in table]:
        raise damaged(path, f"it has no column {', '.join(map(repr, lacking))}", cure)
    return table


def open_array(path: Path, cure: str = "delete the folder that it lies in, and prepare it again") -> np.ndarray:
    """Map an .npy file into memory; one without values, which cannot be mapped, is read.

    Raises:
        StudyError: it is missing or damaged.
    """
    from numpy.lib import format as npy

    def opened() -> np.ndarray:
        try:
            return npy.open_memmap(path, mode="r")
        except ValueError:
            with path.open("rb") as file:
                array: np.ndarray = npy.read_array(file, allow_pickle=False)
            return array

    return guarded(path, opened, cure)
