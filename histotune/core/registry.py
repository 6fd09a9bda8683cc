"""Public name -> builder: strict, helpful, and filled by the files of a folder that announce themselves."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from histotune.core.parameters import Allowed
from histotune.errors import ConfigError, suggest

T = TypeVar("T")
Builder = TypeVar("Builder", bound=Callable[..., Any])

PLUGINS: list[Path] = []  # folders loaded so far, in order; worker processes load them, too
FAMILY = "/"  # "timm/resnet18" is the member "resnet18" of the family "timm"


@dataclass(frozen=True)
class Parameter:
    """One keyword of a builder that a config, a search space or `--set` may give."""

    name: str
    default: Any
    annotation: str
    range: Allowed | None = None

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is inspect.Parameter.empty


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered builder: its name, what it does, what it takes."""

    name: str
    build: Callable[..., T]
    summary: str
    parameters: tuple[Parameter, ...]
    source: str = ""
    check_member: Callable[[str], None] | None = None
    kinds: tuple[str, ...] = ()


class Registry(Generic[T]):
    """All builders of one kind of component.

    A builder takes what the program provides as positional arguments (for a loss: feature width, class counts)
    and what a user may choose as keyword-only arguments; only the latter are parameters of the component.
    A trailing underscore of a Python name is dropped in public (`lambda_` is written `lambda`).

    Args:
        kind: what the entries are, in the singular, as errors name it ("loss").
        package: the package whose modules register entries when they are imported.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, Entry[T]] = {}
        self._discovered = False

    def register(
        self,
        name: str,
        *,
        ranges: Mapping[str, Allowed] | None = None,
        source: str = "",
        check_member: Callable[[str], None] | None = None,
        kinds: tuple[str, ...] = (),
    ) -> Callable[[Builder], Builder]:
        """Register the decorated builder; `name` ending in "/" registers a family of names.

        Args:
            name: public name.
            ranges: what a parameter, by its public name, may be; checked before the builder is called.
            source: where it was published.
            check_member: for a family, raises ConfigError when the part of a name after "/" is no member.
            kinds: for a backbone, the kinds of modality that it reads.
        """

        def decorate(builder: Builder) -> Builder:
            if name in self._entries:
                raise ConfigError(f"{self.kind} {name!r} is registered twice; choose another name")
            summary = (inspect.getdoc(builder) or "").partition("\n")[0]
            parameters = _parameters(builder, ranges or {})
            self._entries[name] = Entry(name, builder, summary, parameters, source, check_member, kinds)
            return builder

        return decorate

    def names(self) -> list[str]:
        """Return all names, sorted; a family ends in "/"."""
        self._discover()
        return sorted(self._entries)

    def entry(self, name: str) -> Entry[T]:
        """Return the entry for `name`; for a member of a family, that of the family.

        Raises:
            ConfigError: the name is unknown; the nearest known name is offered.
        """
        self._discover()
        family, slash, _ = name.partition(FAMILY)
        result = self._entries.get(name) or (self._entries.get(family + FAMILY) if slash else None)
        if result is None:
            raise ConfigError(f"unknown {self.kind} {name!r}. {suggest(name, self._entries)}")
        return result

    def check(self, name: str, params: Mapping[str, Any]) -> None:
        """Check that `name` exists and takes exactly these parameters, without building it.

        Raises:
            ConfigError: unknown name, unknown parameter, missing required parameter, or a value outside its range.
        """
        entry = self.entry(name)
        if entry.check_member:
            entry.check_member(name.removeprefix(entry.name))
        known = {p.name: p.range for p in entry.parameters}
        for given, value in params.items():
            if given not in known:
                raise ConfigError(f"{self.kind} {name!r} has no parameter {given!r}. {suggest(given, known)}")
            if allowed := known[given]:
                allowed.check(f"{given!r} of {self.kind} {name!r}", value)
        missing = [p.name for p in entry.parameters if p.required and p.name not in params]
        if missing:
            raise ConfigError(f"{self.kind} {name!r} needs the parameter {missing[0]!r}")

    def build(self, name: str, *provided: Any, **params: Any) -> T:
        """Build `name` from what the program provides and what the user chose.

        Raises:
            ConfigError: as `check`, or a parameter's value that the builder refuses.
        """
        self.check(name, params)
        entry = self.entry(name)
        if entry.name.endswith(FAMILY):
            provided = (name.removeprefix(entry.name), *provided)
        pythonic = {_python_name(entry, key): value for key, value in params.items()}
        try:
            return entry.build(*provided, **pythonic)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.kind} {name!r} refuses {dict(params)}: {error}") from error

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{self.package}.{module.name}")


def load_plugins(folder: Path) -> list[str]:
    """Import every `*.py` of `folder`, so that what it registers is known; returns the module names.

    Raises:
        ConfigError: the folder is missing or a file in it cannot be imported.
    """
    if not folder.is_dir():
        raise ConfigError(f"plugin folder {str(folder)!r} does not exist")
    loaded = []
    for path in sorted(folder.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"histotune_plugin_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        try:
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
        except Exception as error:
            raise ConfigError(f"plugin {str(path)!r} cannot be imported: {error!r}") from error
        loaded.append(path.stem)
    PLUGINS.append(folder.absolute())
    return loaded


def _parameters(builder: Callable[..., Any], ranges: Mapping[str, Allowed]) -> tuple[Parameter, ...]:
    keywords = {
        p.name.removesuffix("_"): p for p in inspect.signature(builder).parameters.values() if p.kind is p.KEYWORD_ONLY
    }
    assert ranges.keys() <= keywords.keys(), f"ranges of {ranges.keys() - keywords.keys()}, which are no parameters"
    return tuple(
        Parameter(name, p.default, _annotation(p.annotation), ranges.get(name)) for name, p in keywords.items()
    )


def _annotation(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _python_name(entry: Entry[Any], public: str) -> str:
    signature = inspect.signature(entry.build).parameters
    return public if public in signature else f"{public}_"
