"""The trials of the search, how they ended, and which parameters mattered."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

from markupsafe import Markup

from histotune.core.format import counted
from histotune.reporting import html
from histotune.reporting.sections._base import SECTIONS, Content, Section, SectionRequest
from histotune.reporting.sections._findings import Findings
from histotune.studies.leaderboard import TRIAL, option_shares

MOST = 60  # options that are listed


@SECTIONS.register("search")
class Search(Section):
    """The course of the search, and which parameters mattered."""

    title = "Search"
    order = 50
    figures: ClassVar = (
        SectionRequest("search_history"),
        SectionRequest("parameter_importance"),
        SectionRequest("parameter_slices", width=480),
        SectionRequest("parallel_coordinates", width=640),
        SectionRequest("learning_curves"),
        SectionRequest("runtime_per_epoch"),
    )

    def build(self, findings: Findings) -> Content:
        """Count trials by how they ended and by the options that they took."""
        trials = [line for line in findings.trials if line.kind == TRIAL]
        states = Counter(line.record.state for line in trials)
        ended = ", ".join(f"{count:,} {state}" for state, count in states.most_common()) or "none has ended"
        text = [html.paragraph(f"{counted(len(trials), 'trial')}: {ended}.")]
        reasons = Counter(line.record.kind for line in trials if line.record.kind)
        if reasons:
            examples = {line.record.kind: line.record.reason for line in trials if line.record.kind}
            rows = [[kind, count, examples[kind]] for kind, count in reasons.most_common()]
            text.append(html.table("Reasons of failure.", ["reason", "trials", "example"], rows))
        return Content(html.joined([*text, *_shares(findings)]))


def _shares(findings: Findings) -> list[Markup]:
    """Show how often each option of each choice was tried."""
    shares = option_shares(findings.store, findings.source.entries)
    if not shares:
        return []
    rows = [[share.path, share.option, share.trials, f"{share.share:.0%}"] for share in shares[:MOST]]
    caption = "Trials per option. An option with few trials has hardly been tested."
    return [html.table(caption, ["choice", "option", "trials", "share"], rows)]
