"""Progress on the terminal: a live table where it is one, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from histotune.metrics.scores import METRICS
from histotune.storage.records import TrialRecord
from histotune.storage.study_folder import COMPLETE, StudyFolder
from histotune.tuning.budget import Budget, Ledger

BEST_SHOWN = 5


class Display:
    """Shows nothing: the base of the two displays below, and what `--quiet` and `--json` use."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of `what` are done."""

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Show an epoch of a single training."""

    def began(self, store: StudyFolder, budget: Budget, ledger: Ledger) -> None:
        """Show that a search starts or continues; the search keeps the ledger of what is spent up to date."""

    def say(self, line: str) -> None:
        """Show a line of text."""

    def started(self, number: int, config: Mapping[str, Any]) -> None:
        """Show that a trial runs."""

    def reported(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Show an epoch of a trial."""

    def ended(self, record: TrialRecord) -> None:
        """Show that a trial ended."""

    def close(self) -> None:
        """Leave the screen as it should stay."""


class PlainDisplay(Display):
    """One line per event that matters, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.metric = "balanced_accuracy"
        self.budget, self.ledger = Budget(1), Ledger()
        self.began_at = time.monotonic()
        self.best: TrialRecord | None = None

    def progress(self, what: str, done: int, total: int) -> None:
        """Print the end of a stage only."""
        if done == total:
            self.say(f"{what}: {done}/{total}")

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Print an epoch of a single training."""
        shown = ("train_loss", "balanced_accuracy", "auroc")
        figures = "  ".join(f"{name} {metrics[name]:.4f}" for name in shown if name in metrics)
        self.say(f"epoch {epoch}: {figures}")

    def began(self, store: StudyFolder, budget: Budget, ledger: Ledger) -> None:
        """Take up what an earlier search left."""
        settings = store.settings
        self.metric, self.budget, self.ledger = settings.metric, budget, ledger
        self.began_at = time.monotonic()
        if settings.training:
            self.say(f"training set {settings.training}")
        for record in store.trials():
            self._count(record)
        if ledger.ended:
            self.say(f"study {store.folder.name!r} continues: {self._spent()}")

    def ended(self, record: TrialRecord) -> None:
        """Print a trial's result and the best so far."""
        self._count(record)
        result = f"{record.metrics[self.metric]:.4f}" if record.state == COMPLETE else record.reason or record.state
        best = f"best {self.best.metrics[self.metric]:.4f} (trial {self.best.number})" if self.best else "none complete"
        after = f"after {record.epochs} epochs, {record.seconds:.0f} s"
        self.say(f"[{self._spent()}] trial {record.number}: {result} {after}; {best}")

    def _count(self, record: TrialRecord) -> None:
        if record.state == COMPLETE and (self.best is None or self._better(record, self.best)):
            self.best = record

    def _better(self, one: TrialRecord, other: TrialRecord) -> bool:
        sign = 1 if METRICS[self.metric].higher_is_better else -1
        return sign * one.metrics[self.metric] > sign * other.metrics[self.metric]

    def _spent(self) -> str:
        return self.budget.spent(self.ledger, time.monotonic() - self.began_at)

    def say(self, line: str) -> None:
        """Print a line."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


class LiveDisplay(PlainDisplay):
    """A table of running and best trials, with the best so far and the time left."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.running: dict[int, tuple[str, int, float]] = {}
        self.complete: list[TrialRecord] = []
        self.names: dict[int, str] = {}
        self.before = 0
        self.bar: Progress | None = None
        self.live: Live | None = None

    def progress(self, what: str, done: int, total: int) -> None:
        """Move the bar of a stage that comes before the trials."""
        if self.bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=self.console)
            self.bar.start()
        known = {task.description: task.id for task in self.bar.tasks}
        task = known[what] if what in known else self.bar.add_task(what)
        self.bar.update(task, completed=done, total=total)

    def began(self, store: StudyFolder, budget: Budget, ledger: Ledger) -> None:
        """Replace the bars by the table; a search that took another over begins a second time."""
        self._end_bar()
        self.complete.clear()
        self.running.clear()
        super().began(store, budget, ledger)
        self.before = ledger.ended
        if self.live is None:
            self.live = Live(self._screen(), console=self.console, refresh_per_second=4, get_renderable=self._screen)
            self.live.start()

    def started(self, number: int, config: Mapping[str, Any]) -> None:
        """Add a running trial."""
        self.names[number] = describe(config)
        self.running[number] = (self.names[number], 0, float("nan"))

    def reported(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Move a running trial on."""
        self.running[number] = (self.names.get(number, ""), epoch, metrics[self.metric])

    def ended(self, record: TrialRecord) -> None:
        """Move a trial from the running to the ended ones."""
        self.running.pop(record.number, None)
        self._count(record)

    def close(self) -> None:
        """Stop drawing; the last table stays."""
        self._end_bar()
        if self.live is not None:
            self.running.clear()
            self.live.stop()

    def _count(self, record: TrialRecord) -> None:
        super()._count(record)
        if record.state == COMPLETE:
            self.complete.append(record)

    def _end_bar(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _screen(self) -> Group:
        table = Table(expand=False, title_justify="left", box=None, pad_edge=False)
        for name, justify in (("trial", "right"), ("what", "left"), ("epoch", "right"), (self.metric, "right")):
            table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
        sign = -1 if METRICS[self.metric].higher_is_better else 1
        best = sorted(self.complete, key=lambda record: sign * record.metrics[self.metric])[:BEST_SHOWN]
        for record in best:
            name = self.names.setdefault(record.number, describe(record.config()))
            table.add_row(str(record.number), name, str(record.epochs), f"{record.metrics[self.metric]:.4f}")
        for number, (name, epoch, value) in sorted(self.running.items()):
            reached = f"{value:.4f}" if epoch else "-"
            table.add_row(str(number), f"{name}  running", str(epoch), reached, style="cyan")
        return Group(self._headline(), table)

    def _headline(self) -> Text:
        passed, fresh = time.monotonic() - self.began_at, self.ledger.ended - self.before
        left = ""
        if self.budget.trials and fresh:
            left = f", at most {(self.budget.trials - self.ledger.ended) * passed / fresh / 60:.0f} min left"
        best = f", best {self.metric} {self.best.metrics[self.metric]:.4f}" if self.best else ""
        return Text(f"{self._spent()}{best}{left}", style="bold")


def describe(config: Mapping[str, Any]) -> str:
    """Name a configuration in a few words: its backbones and its loss."""
    branches = config["model"]["branches"].values()
    backbones = "+".join(str(branch["backbone"]["name"]) for branch in branches)
    return f"{backbones} {config['loss']['name']}"


@contextlib.contextmanager
def display(*, quiet: bool, live: bool = True) -> Iterator[Display]:
    """Return the display that fits: live on a terminal unless `live` is False, lines elsewhere, none when `quiet`."""
    console = Console(stderr=True)
    chosen = Display() if quiet else LiveDisplay(console) if live and sys.stderr.isatty() else PlainDisplay(console)
    try:
        yield chosen
    finally:
        chosen.close()
