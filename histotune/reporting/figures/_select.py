"""Which models of a study a figure is about: the best one, one by its name, or those that are compared."""

from __future__ import annotations

from collections.abc import Sequence

from histotune.errors import StudyError, suggest
from histotune.reporting.figures._base import Source
from histotune.studies.leaderboard import CONTROL, ENSEMBLE, SINGLE, TRIAL, Line, ranked

BEST = "best"


def find(source: Source, name: str, also: Sequence[str] = ()) -> Line:
    """Find the best model, or one by its number or name on the leaderboard.

    Args:
        name: `best`, a trial's number, or a name.
        also: what else the figure takes, for the suggestion.

    Raises:
        StudyError: there is none.
    """
    if name == BEST:
        models = source.models()
        if not models:
            raise StudyError(f"study {source.settings.name!r} has no complete trial yet: search on, or train one")
        return models[0]
    found = [line for line in source.entries if line.name == name and line.record.metrics]
    if not found:
        known = [BEST, *also, *(line.name for line in source.entries if line.record.metrics)]
        raise StudyError(f"study {source.settings.name!r} has no predictions of {name!r}. {suggest(name, known)}")
    return found[0]


def compared(source: Source) -> list[Line]:
    """Return the best trial or single training, the latest ensemble and the best control, as far as there are any.

    Raises:
        StudyError: nothing was trained to its end.
    """
    models = source.models()
    trained = [line for line in models if line.kind in (TRIAL, SINGLE)]
    if not trained:
        raise StudyError(f"study {source.settings.name!r} has no complete trial yet: search on, or train one")
    controls = [line for line in ranked(source.store, source.entries) if line.kind == CONTROL]
    return [trained[0], *ensembles(source)[:1], *controls[:1]]


def ensembles(source: Source) -> list[Line]:
    """Return the ensembles, the latest first."""
    found = [line for line in source.entries if line.kind == ENSEMBLE]
    return sorted(found, key=lambda line: (-(line.record.folder / "metrics.json").stat().st_mtime_ns, line.name))
