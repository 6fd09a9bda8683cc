"""The command that measures an export where nothing was chosen: `histotune evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from histotune.cli import options as given
from histotune.cli.tables import SHOWN_METRICS
from histotune.core.provenance import shell_command
from histotune.errors import ConfigError

if TYPE_CHECKING:
    from histotune.evaluation.sealed import Evaluation

EXAMPLES = ("evaluate exports/idc", "evaluate exports/idc --on breakhis --data BreaKHis_v1")


def evaluate(
    exported: given.ExportArgument,
    on: Annotated[
        str | None, typer.Option(help="Evaluate on an external dataset instead of the sealed test set.")
    ] = None,
    class_map: Annotated[
        list[str] | None,
        typer.Option(help="THEIRS=OURS: which class of the model a class of the external dataset is, repeatable."),
    ] = None,
    data: given.DataOption = None,
    runs: given.RunsOption = None,
    cache: given.CacheOption = None,
    json_wanted: given.JsonOption = False,
) -> None:
    """Evaluate an export on the sealed test set, with 95 % intervals over patients; each opening is recorded."""
    from histotune.api import evaluate as run
    from histotune.cli import tables as cli_show

    if class_map and on is None:
        raise ConfigError("--class-map is for an external dataset: give --on, too")
    pairs = {}
    for pair in class_map or []:
        theirs, is_pair, ours = pair.partition("=")
        if not is_pair:
            raise ConfigError(f"--class-map {pair!r}: write THEIRS=OURS, such as normal=benign")
        pairs[theirs] = ours
    command = shell_command()
    result = run(exported, on=on, data=data, runs=runs, cache=cache, class_map=pairs, command=command)
    if json_wanted:
        cli_show.as_json(result.to_dict())
    else:
        _show(result)


def _show(result: Evaluation) -> None:
    """Print the figures of an evaluation."""
    from histotune.cli.tables import as_table
    from histotune.metrics.scores import in_words
    from histotune.storage.seal import as_shown

    rows = [{"metric": metric, "at .5": str(value)} for metric, value in result.metrics.items()]
    if result.threshold is not None:
        for row in rows:
            row[f"at {result.threshold:.2f} (from validation)"] = str(result.at_threshold[row["metric"]])
    as_table(rows, _title(result))
    shown = [m for m in SHOWN_METRICS if m in result.metrics]
    beside = [{"beside": as_shown(who), **{m: str(v[m]) for m in shown}} for who, v in result.beside.items()]
    if beside:
        as_table(beside, "The same cases")
    for other, gain in result.gains.items():
        typer.echo(f"{in_words(result.metric)}, minus {as_shown(other)}: {gain}")
    for name, shift in result.shift.items():
        typer.echo(f"Shift in {name}: {shift}")
    if result.note and not result.openings_before:  # a second opening was warned of already
        typer.echo(result.note)


def _title(result: Evaluation) -> str:
    from histotune.storage.seal import as_shown

    title = (
        f"{result.export} on the {as_shown(result.part)} of {result.dataset}: {result.cases} cases of "
        f"{result.patients} patients"
    )
    title += f", split {result.protocol}"
    if result.openings_before:
        title += f", OPENED {result.openings_before + 1} TIMES"
    if result.leaky:
        title += " (leaky reproduction: patients stand on both sides)"
    return title + (" (synthetic data)" if result.synthetic else "")
