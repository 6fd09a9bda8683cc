"""The contract of a section: its text, which is escaped, and its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from markupsafe import Markup

from histotune.core.registry import Registry
from histotune.reporting.sections._findings import Findings


@dataclass(frozen=True)
class SectionRequest:
    """A registered figure that a section shows, with its options.

    Attributes:
        width: least pixels; where the screen is narrower, the figure scrolls in itself.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    width: int = 0

    @property
    def key(self) -> str:
        """Name of this figure with these options on the page, unique."""
        return "-".join([self.name, *map(str, self.options.values())])


@dataclass(frozen=True)
class Content:
    """What a section shows.

    Attributes:
        html: before its figures; whatever came from outside is escaped, which `Markup.format` does by itself.
        data: plain values for the page's script, by name.
    """

    html: Markup
    data: Mapping[str, Any] = field(default_factory=dict)


class Section:
    """A part of the report with a title of its own.

    It reads only the findings, and states in a sentence what is unknown and which command determines it. A
    builder takes no parameters.

    Attributes:
        title: its heading.
        order: sections stand in ascending order; two do not share one.
        figures: what is drawn below its text, where the study holds it.
    """

    title: ClassVar[str]
    order: ClassVar[int]
    figures: ClassVar[tuple[SectionRequest, ...]] = ()

    def build(self, findings: Findings) -> Content:
        """Return what is known.

        Raises:
            HistotuneError: files of the study are damaged; the page then says so in the section's place.
        """
        raise NotImplementedError


SECTIONS: Registry[Section] = Registry("section", "histotune.reporting.sections")
