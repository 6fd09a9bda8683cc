"""Every check over a divided cohort: the report, the line that a search prints, and the study's `audit.json`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from histotune.core import files
from histotune.core.progress import Progress, silent
from histotune.core.provenance import shell_command, utc_time
from histotune.data.audits import AUDITS, LEAK, WARNING, Finding, Subject, worst_first
from histotune.data.cohort import Cohort
from histotune.data.splits import Split
from histotune.errors import DataError, StudyError
from histotune.storage import layout
from histotune.storage.study_folder import StudyFolder


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Attributes:
        time: UTC, ISO 8601; `command`: what was called; `seconds`: how long it took.
        checks: one finding per check, leaks first.
    """

    time: str
    command: str
    checks: Sequence[Finding]
    seconds: float

    @property
    def leaks(self) -> list[Finding]:
        """The findings that are leaks."""
        return [finding for finding in self.checks if finding.severity == LEAK]

    def __str__(self) -> str:
        """The line that a search prints."""
        warnings = [finding for finding in self.checks if finding.severity == WARNING]
        if self.leaks:
            return f"Audit: {_listed('LEAK', self.leaks)}" + (f"; {_listed('warning', warnings)}" if warnings else "")
        rest = f"; {_listed('warning', warnings)}" if warnings else ", no warning"
        made = [finding for finding in self.checks if finding.of]
        skipped = f", {len(self.checks) - len(made)} could not be made" if len(made) < len(self.checks) else ""
        return f"Audit: no leak in {len(made)} check{'s' * (len(made) != 1)}{skipped}{rest}"

    def refuse(self) -> None:
        """Raise DataError if there is a leak, for those who asked for `strict`."""
        if self.leaks:
            message = "\n".join(f"  {leak.name}: {leak.sentence}. {leak.advice.capitalize()}" for leak in self.leaks)
            raise DataError(f"the audit found leaks (--strict):\n{message}")


def _listed(word: str, findings: Sequence[Finding]) -> str:
    plural = "S" if word.isupper() else "s"
    names = "; ".join(f"{finding.name}: {finding.sentence}" for finding in findings[:2])
    more = f"; and {len(findings) - 2} more" if len(findings) > 2 else ""
    return f"{len(findings)} {word}{plural if len(findings) > 1 else ''} ({names}{more})"


def run(subject: Subject, *, progress: Progress = silent, command: str = "") -> AuditReport:
    """Make every check; a check sees labels of the training and validation part only."""
    started, names, findings = time.perf_counter(), AUDITS.names(), []
    for done, name in enumerate(names):
        progress("auditing", done, len(names))
        findings.append(AUDITS.entry(name).build(subject))
    progress("auditing", len(names), len(names))
    now = utc_time()
    seconds = round(time.perf_counter() - started, 2)
    return AuditReport(now, command or shell_command(), worst_first(findings), seconds)


def of_study(
    store: StudyFolder, cohort: Cohort, *, fresh: bool = False, progress: Progress = silent, command: str = ""
) -> AuditReport:
    """Audit a study's own split and write it to the study's folder; what stands there of these checks is only read.

    Args:
        fresh: audit anew, whatever stands there.
    """
    path = store.folder / layout.AUDIT
    result = None if fresh else read(store)
    if result is not None and {finding.name for finding in result.checks} == set(AUDITS.names()):
        return result
    data, table = store.training_data(cohort), store.split
    test = (table["part"] == "test").to_numpy().nonzero()[0]
    protocol = store.settings.protocol
    parts = Split(protocol, data.train, data.val, test, folds=data.folds)
    report = run(Subject.of(cohort, parts, data.labels), progress=progress, command=command)
    files.write_json(path, asdict(report))
    return report


def read(store: StudyFolder) -> AuditReport | None:
    """Read a study's audit; None where there is none, or none that this version can read: it is made anew."""
    path = store.folder / layout.AUDIT
    if not path.exists():
        return None
    try:
        saved = files.read_json(path)
        checks = [files.restored(Finding, check, path) for check in saved["checks"]]
        return AuditReport(saved["time"], saved["command"], checks, saved["seconds"])
    except StudyError:
        return None


def line(store: StudyFolder) -> str:
    """Return the line that a search prints of its study's audit."""
    return f"{read(store) or 'Audit: none'}. All of it: histotune audit {store.folder.name}"
