"""Pages of the manual that are made from the code when it is built: commands, parts, Python names, packages.

MkDocs calls `on_config`, `on_files` and `on_page_markdown` (https://www.mkdocs.org/user-guide/configuration/#hooks).
Nothing made here is committed. A hand-written page gets a made table where it has a line `<!-- name of the table -->`.
"""

from __future__ import annotations

import ast
import csv
import dataclasses
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PUBLIC = ("histotune", "histotune.extend", "histotune.testing", "histotune.errors")

# kind -> title of its page, and where its names are written; the list of kinds is that of `histotune list`
PARTS = {
    "losses": ("Losses", "`loss` in a search space: `loss: {name: focal, gamma: 2}`."),
    "backbones": ("Backbones", "`model.branches.NAME.backbone` in a search space; after `timm/` a name of timm."),
    "fusions": ("Fusions", "`model.fusion` in a search space joins the branches of a model."),
    "redundancies": ("Redundancy terms", "`model.redundancy` in a search space: a loss on what two branches share."),
    "modalities": ("Kinds of modality", "What a cohort can hold of a case."),
    "datasets": ("Datasets", "`dataset` in a search space; parameters are given as `--option NAME=VALUE`."),
    "ensembles": ("Ensemble strategies", "`histotune ensemble STUDY --strategy NAME`."),
    "figures": ("Figures", "`histotune figure NAME STUDY`; parameters are given as `--set NAME=VALUE`."),
    "audits": ("Audit checks", "`histotune audit` runs them all; so does every search before its first trial."),
    "metrics": ("Metrics", "`--metric NAME`, or `metric` in a search space."),
    "spaces": ("Search spaces", "`histotune search NAME`; `histotune show-space NAME` prints all of one."),
    "presets": ("Presets", "`histotune train --preset NAME`: a published configuration with nothing left to search."),
    "reproductions": ("Reproductions", "`histotune reproduce NAME --on DATA`: a paper's comparison, measured again."),
}  # fmt: skip


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace `FOLDER/*` in the navigation by the pages that are made in that folder."""
    made = {"reference/cli/*": list(_cli_pages()), "reference/python/*": list(_python_pages())}
    made["reference/*"] = [f"reference/{kind}.md" for kind in PARTS]

    def filled(entries: list[Any]) -> list[Any]:
        result: list[Any] = []
        for entry in entries:
            if isinstance(entry, dict):
                result.append({k: filled(v) if isinstance(v, list) else v for k, v in entry.items()})
            else:
                result += made.get(entry, [entry])
        return result

    config.nav = filled(config.nav or [])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and the files of the repository that the manual shows."""
    pages = {**_cli_pages(), **_python_pages(), **_part_pages()}
    pages["contributing.md"] = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("](docs/", "](")
    pages["changelog.md"] = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for report in sorted((ROOT / "reports").glob("*.md")):
        pages[f"results/{report.name}"] = report.read_text(encoding="utf-8")
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    for path in [*(ROOT / "reports" / "pictures").glob("*.png"), ROOT / "reports" / "sample-report.html"]:
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the made tables where a hand-written page asks for them."""
    tables = {
        "packages": package_tree,
        "layers": layers,
        "keys of a trial": trial_keys,
        "keys of a study": study_keys,
        "published numbers": published_numbers,
    }

    def made(match: re.Match[str]) -> str:
        return tables[match[1]]()

    return re.sub(r"^<!-- (" + "|".join(tables) + r") -->$", made, markdown, flags=re.MULTILINE)


def package_tree() -> str:
    """Return the package's tree, a line per package with the first sentence of its `__init__`, as a code block."""
    rows = [("histotune/", "")]
    for path in sorted((ROOT / "histotune").rglob("__init__.py")):
        parts = path.parent.relative_to(ROOT / "histotune").parts
        if parts:
            rows.append((f"{'  ' * len(parts)}{parts[-1]}/", first_sentence(path)))
    width = max(len(name) for name, _ in rows) + 2
    lines = [f"{name:{width}}{sentence}".rstrip() for name, sentence in rows]
    return "\n".join(["```text", *lines, "```"])


def layers() -> str:
    """Return the table of the direction of imports, as the architecture test has it."""
    tree = ast.parse((ROOT / "tests" / "house" / "test_architecture.py").read_text(encoding="utf-8"))
    rows = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS"
    )
    lines = [
        f"| {number} | {', '.join(f'`{name}`' for name in sorted(row))} |" for number, row in enumerate(rows, start=1)
    ]
    return "\n".join(["| row | modules and packages |", "|---|---|", *lines])


def first_sentence(path: Path) -> str:
    """Return the first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def trial_keys() -> str:
    """Return the table of every key of a trial's configuration: type, default, range, meaning."""
    from histotune.core.config import TrialConfig

    rows = [
        f"| `{path}` | {kind} | {default} | {allowed} | {text} |"
        for path, kind, default, allowed, text in _keys(TrialConfig, "")
    ]
    return "\n".join(["| key | type | default | range | meaning |", "|---|---|---|---|---|", *rows])  # fmt: skip


def study_keys() -> str:
    """Return the table of the keys of a search space that belong to the study."""
    from histotune.space import OWN_KEYS, Space

    meanings = _arguments(Space.__doc__ or "", "Attributes")
    rows = [f"| `{key}` | {_text(meanings.get(key, ''))} |" for key in OWN_KEYS]
    return "\n".join(["| key | meaning |", "|---|---|", *rows])


def published_numbers() -> str:
    """Return how many published numbers stand beside a row that is measured, in which report, and why others do not."""
    from histotune.metrics.scores import METRICS
    from histotune.reproductions import papers

    rows, sums = [], [0, 0, 0]
    for name in papers.REPRODUCTIONS.names():
        for table in papers.published_tables(Path(papers.__file__).parent / f"{name}.yaml"):
            reports = [path for on in table.settings for path in (ROOT / "reports").glob(f"{name}-{on}-*.csv")]
            lines = [line for path in reports for line in csv.DictReader(path.read_text(encoding="utf-8").splitlines())]
            measured = {(line["row"], line["metric"]) for line in lines if line["mean"] and line["published"]}
            beside, apart = papers.count([table])
            reported = sum(
                bool(reports) if cell.metric not in METRICS else (cell.row, cell.metric) in measured
                for cell in table.cells()
                if not cell.why
            )
            numbers = [beside + sum(apart.values()), beside, reported]
            sums = [total + number for total, number in zip(sums, numbers, strict=True)]
            why = "; ".join(f"{number}: {_text(reason)}" for reason, number in apart.items())
            rows.append(f"| {table.paper} {table.name}: {table.about} | {' | '.join(map(str, numbers))} | {why} |")
    total = (
        f"{sums[0]} numbers are transcribed. {sums[1]} stand beside a row that a reproduction measures, {sums[2]} of "
        f"them in a report of this manual; {sums[0] - sums[1]} stand beside none."
    )
    head = "| published in | numbers | beside a measured row | in a report | beside none, and why |"
    return "\n".join([total, "", head, "|---|---|---|---|---|", *rows])


def _keys(kind: type, where: str) -> Iterator[tuple[str, str, str, str, str]]:
    meanings = _arguments(kind.__doc__ or "", "Args")
    for one in dataclasses.fields(kind):
        path = f"{where}{one.name}"
        value = one.default_factory() if one.default_factory is not dataclasses.MISSING else one.default
        text = _text(meanings.get(one.name, ""))
        if dataclasses.is_dataclass(value) and not hasattr(value, "params"):
            yield from _keys(type(value), f"{path}.")
        elif isinstance(value, Mapping):
            inner = [v for v in value.values() if dataclasses.is_dataclass(v)]
            if not inner:
                yield path, "mapping", "none", "", text
            for branch in inner[:1]:
                yield from _keys(type(branch), f"{path}.NAME.")
        elif hasattr(value, "params"):
            yield path, "name", f"`{value.name}`", _link(path), text or "a registered name, and its parameters"
        else:
            yield (
                path,
                type(value).__name__,
                f"`{str(value).lower() if isinstance(value, bool) else value}`",
                _allowed(path, value),
                text,
            )


def _link(path: str) -> str:
    page = {"loss": "losses", "backbone": "backbones", "fusion": "fusions", "redundancy": "redundancies"}[
        path.split(".")[-1]
    ]
    return f"[{page}]({page}.md)"


def _allowed(path: str, value: Any) -> str:
    """Return the range of a key in the words of its own error, which a value far outside of it raises."""
    from histotune.core.config import TrialConfig
    from histotune.errors import ConfigError

    if isinstance(value, bool) or "NAME" in path:
        return "false, true" if isinstance(value, bool) else ""
    wrong: Any = "?" if isinstance(value, str) else type(value)(-(10**9))
    for key in reversed(path.split(".")):
        wrong = {key: wrong}
    try:
        TrialConfig.from_dict(wrong)
    except ConfigError as error:
        message = str(error)
        number = re.search(r"must (?:lie in|be) (.+?), got", message)
        words = re.search(r"Known: (.+?)\.?$", message)
        return _text(number[1] if number else words[1] if words else "")
    return ""


def _arguments(docstring: str, heading: str) -> dict[str, str]:
    """Return {name: text} of a section of a docstring in Google's form."""
    section = re.search(rf"^ *{heading}:\n(.*?)(?:\n\s*\n|\Z)", docstring, flags=re.MULTILINE | re.DOTALL)
    result: dict[str, str] = {}
    indent, name = 0, ""
    for line in (section[1] if section else "").splitlines():
        depth = len(line) - len(line.lstrip())
        start = re.match(r"\s*(\w+): (.*)", line)
        if start and (not indent or depth <= indent):
            indent, name = depth, start[1]
            result[name] = start[2]
        elif name:
            result[name] += " " + line.strip()
    return result


def _part_pages() -> dict[str, str]:
    return {f"reference/{kind}.md": _part_page(kind) for kind in PARTS}


def _part_page(kind: str) -> str:
    from histotune.cli.catalogue import catalogue

    title, intro = PARTS[kind]
    entries = catalogue(kind)
    lines = [f"# {title}", "", f"{intro} On the command line: `histotune list {kind} -v`.", ""]
    plain = not any(entry["parameters"] or entry["source"] for entry in entries)
    lines += [f"| {title.lower()} | what it is |", "|---|---|"]
    for entry in entries:
        name = f"`{entry['name']}`" if plain else f"[`{entry['name']}`](#{_anchor(entry)})"
        lines.append(f"| {name} | {_text(entry['summary'])} |")
    return "\n".join([*lines, "", *([] if plain else [line for entry in entries for line in _part(entry)])])


def _part(entry: Mapping[str, Any]) -> Iterator[str]:
    yield from [f"## `{entry['name']}` {{ #{_anchor(entry)} }}", "", _text(entry["summary"]), ""]
    if entry["parameters"]:
        yield from ["| parameter | default | range |", "|---|---|---|"]
        for name, default in entry["parameters"].items():
            shown = str(default).lower() if isinstance(default, bool) else default if default != "" else '""'
            allowed = f"`{entry['ranges'][name]}`" if name in entry["ranges"] else ""
            yield f"| `{name}` | `{shown}` | {allowed} |"
        yield ""
    for key in ("layout", "size", "licence", "split", "source"):
        if entry.get(key):
            yield f"- {key}: {_text(entry[key])}"
    yield ""


def _anchor(entry: Mapping[str, Any]) -> str:
    return str(entry["name"]).strip("/").replace("/", "-")


def _cli_pages() -> dict[str, str]:
    from histotune.cli.app import app

    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="histotune")
    commands = {name: group.get_command(context, name) for name in group.list_commands(context)}  # type: ignore[attr-defined]
    index = [f"# Commands\n\n{group.help}\n\n| command | what it does |\n|---|---|"]
    index += [f"| [`{name}`]({name}.md) | {_text(_paragraphs(command)[0])} |" for name, command in commands.items()]
    index.append("\n" + "\n".join(_parameters(group, context)))
    pages = {f"reference/cli/{name}.md": _cli_page(name, command, context) for name, command in commands.items()}
    return {"reference/cli/index.md": "\n".join(index), **pages}


def _cli_page(name: str, command: Any, parent: typer.Context) -> str:
    context = typer.Context(command, info_name=name, parent=parent)
    lines = [f"# histotune {name}", "", *[_text(text) + "\n" for text in _paragraphs(command)]]
    lines += ["```text", f"histotune {name} {' '.join(command.collect_usage_pieces(context))}", "```", ""]
    lines += _parameters(command, context)
    examples = re.findall(r"\[bold\](.+?)\[/bold\]", command.epilog or "")
    return "\n".join([*lines, "## Examples", "", "```sh", *examples, "```", ""] if examples else lines)


def _paragraphs(command: Any) -> list[str]:
    """Return the paragraphs of a command's help, each as one line and without marks of rich."""
    text = re.sub(r"\[/?[a-z]+\]", "", command.help or "")
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


def _parameters(command: Any, context: typer.Context) -> list[str]:
    lines = []
    for kind, title in (("argument", "Arguments"), ("option", "Options")):
        records = [p.get_help_record(context) for p in command.get_params(context) if p.param_type_name == kind]
        rows = [f"| `{name}` | {_text(text)} |" for name, text in filter(None, records)]
        lines += [f"## {title}", "", f"| {kind} | meaning |", "|---|---|", *rows, ""] if rows else []
    return lines


def _python_pages() -> dict[str, str]:
    return {
        f"reference/python/{module.removeprefix('histotune.')}.md": _python_page(module)
        for module in PUBLIC
        if importlib.util.find_spec(module) is not None
    }


def _python_page(module: str) -> str:
    loaded = importlib.import_module(module)
    names = getattr(loaded, "__all__", None) or [
        n for n, v in vars(loaded).items() if getattr(v, "__module__", "") == module
    ]
    intro = (loaded.__doc__ or "").partition("\n")[0]
    blocks = [f"::: {module}.{name}" for name in names if not name.startswith("_")]
    return "\n\n".join([f"# {module}", _text(intro), *blocks])


def _text(value: object) -> str:
    """Return text as Markdown that a table's cell can hold; code spans stay as they are."""
    pieces = re.split(r"(`[^`]*`)", " ".join(str(value).split()))
    plain = [
        piece
        if piece.startswith("`")
        else re.sub(
            r"(https?://[^\s,;)]+)", r"[\1](\1)", piece.replace("<", "&lt;").replace("|", "\\|").replace("*", "\\*")
        )
        for piece in pieces
    ]
    return "".join(plain)
