"""Checks of the data for leaks and shortcuts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from histotune.core.format import minute
from histotune.reporting import html
from histotune.reporting.sections._base import SECTIONS, Content, Section
from histotune.reporting.sections._findings import Findings

_KINDS = {"ok": "good", "note": "", "warning": "warn", "leak": "bad"}


@SECTIONS.register("audit")
class Audit(Section):
    """Checks of the data for leaks and shortcuts, and their results."""

    title = "Audit of the data"
    order = 110

    def build(self, findings: Findings) -> Content:
        """Show every check, leaks first."""
        result, name = findings.audit, findings.settings.name
        if not result:
            text = (
                f"The data were not audited: `histotune audit {name}` checks for patients, sites and images on both "
                "sides of the split, and for shortcuts that reveal the label."
            )
            return Content(html.paragraph(text))
        ranks = list(_KINDS)[::-1]
        checks = sorted(result.get("checks", []), key=lambda one: ranks.index(one.get("severity", "ok")))
        time = minute(result.get("time")) or "at an unknown time,"
        when = f"Run {time} UTC by `{result.get('command') or 'Python'}`."
        rows = [_row(one) for one in checks]
        return Content(
            html.joined(
                [
                    html.paragraph(when),
                    html.table(
                        "Checks, the most severe first.", ["check", "affected", "finding", "advice"], rows, stacked=True
                    ),
                ]
            )
        )


def _row(one: Mapping[str, Any]) -> list[Any]:
    severity = str(one.get("severity", "ok"))
    count = f"{one['count']:,} of {one['of']:,}" if one.get("count") is not None and one.get("of") is not None else ""
    examples = [str(example) for example in one.get("examples", [])]
    text = Markup.escape(one.get("sentence", ""))
    if examples and severity != "ok":
        text += Markup(" Examples: {}").format("; ".join(examples))
    name = Markup("{} {}").format(
        str(one.get("name", "")).replace("_", " "), html.badge(severity, _KINDS.get(severity, ""))
    )
    return [name, Markup.escape(count), text, Markup.escape(one.get("advice") or "")]
