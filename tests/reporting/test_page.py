"""The report: one page that stands alone, escapes what it is given, and says the honest number first."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from changed_studies import reread
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from typer.testing import CliRunner

from histotune.cli.app import app
from histotune.core import files
from histotune.core.config import TrialConfig, unparse
from histotune.core.runtime import Places
from histotune.errors import StudyError
from histotune.metrics.scores import evaluate, softmax
from histotune.reporting import html
from histotune.reporting.figures import FIGURES, FigureSource
from histotune.reporting.page import ordered, script_json, write_report
from histotune.reporting.sections import SECTIONS, Findings, summary
from histotune.storage.records import Predictions, write_record
from histotune.storage.study_folder import COMPLETE, STOPPED, StudyFolder

NASTY = st.text("<>&/\"'` =!-scriptSCRIPT\\{}\u2028", max_size=30)
every_section = pytest.mark.parametrize("name", SECTIONS.names())
EVIL = "</script><img src=x onerror=alert(1)>\"'&{{data}}"


class Text(HTMLParser):
    """Gathers what a page shows, without scripts and styles, and every element with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words, self.elements, self._inside = "", list[tuple[str, dict[str, str | None]]](), ""
        self.feed(str(page))  # of markup every slice would be markup

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag if tag in ("script", "style") else ""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        self.words += "" if self._inside else data


def findings(store: StudyFolder, tmp_path: Path) -> Findings:
    """Read a study as the report does."""
    return Findings(FigureSource(store, Places(store.folder.parent, tmp_path / "cache")))


def write(store: StudyFolder, tmp_path: Path, **options: Any) -> str:
    """Write a report and return the page."""
    places = Places(store.folder.parent, tmp_path / "cache")
    return write_report(store, tmp_path / "page.html", places=places, **options).path.read_text(encoding="utf-8")


def first_words(page: str) -> str:
    """Return the leading paragraph of a page."""
    return Text(page.split('<p class="lead">')[1].split("</p>")[0]).words


def with_settings(store: StudyFolder, **changes: Any) -> StudyFolder:
    """Write other settings into a study."""
    files.write_json(store.folder / "study.json", unparse(replace(store.settings, **changes)))
    return reread(store)


@every_section
def test_a_section_has_a_title_and_a_place_of_its_own(name: str) -> None:
    section = SECTIONS.build(name)
    assert section.title
    assert [other for other in SECTIONS.names() if SECTIONS.build(other).order == section.order] == [name]
    assert SECTIONS.entry(name).summary


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (
            0.01,
            0.2,
            "It is significantly better than every baseline (difference from histogram: +0.100 (+0.010 to +0.200))",
        ),
        (-0.1, 0.2, "It is not significantly better than the baseline histogram"),
        (-0.3, -0.1, "It is significantly worse than the baseline histogram"),
        (None, None, "It is not significantly better than the baseline histogram"),
    ],
)
def test_an_evaluation_is_compared_with_the_baselines(low: float | None, high: float | None, said: str) -> None:
    gains: dict[str, dict[str, float | None]] = {
        "control majority": {"value": 0.4, "low": 0.3, "high": 0.5},
        "control histogram": {"value": 0.1, "low": low, "high": high},
        "best member": {"value": -0.1, "low": -0.2, "high": -0.05},
    }
    assert said in summary._against(gains, "auroc")
    mirror = {"value": "value", "low": "high", "high": "low"}  # where less is better
    turned = {
        name: {key: None if (bound := one[other]) is None else -bound for key, other in mirror.items()}
        for name, one in gains.items()
    }
    assert said.partition(" (")[0] in summary._against(turned, "nll")


@every_section
@pytest.mark.parametrize("trained", [True, False])
def test_a_section_speaks_of_every_study(name: str, trained: bool, trained_study: StudyFolder, tmp_path: Path) -> None:
    if not trained:
        shutil.rmtree(trained_study.folder / "trials")
    content = SECTIONS.build(name).build(findings(trained_study, tmp_path))
    assert isinstance(content.html, Markup)
    assert Text(content.html).words.strip()
    assert json.loads(script_json(content.data)) == json.loads(json.dumps(files.without_nan(content.data)))


@every_section
def test_a_section_escapes_names(name: str, trained_study: StudyFolder, tmp_path: Path) -> None:
    table, labels = trained_study.split, trained_study.known_labels()
    for column in ("id", "patient"):
        table[column] = table[column] + EVIL
    table.to_csv(trained_study.folder / "split.csv", index=False)
    reread(trained_study)
    labels.assign(id=labels["id"] + EVIL).to_csv(trained_study.folder / "labels.csv", index=False)
    for record in trained_study.trials():
        saved = record.predictions()
        ids, patients = (np.array([f"{one}{EVIL}" for one in row]) for row in (saved.ids, saved.patients))
        replace(saved, ids=ids, patients=patients).save(record.folder / "predictions.npz")
    evil = with_settings(trained_study, name=EVIL, dataset=EVIL, classes=[EVIL, "b"], data=EVIL, facts={"source": EVIL})
    shown = Text(SECTIONS.build(name).build(findings(evil, tmp_path)).html)
    assert not [tag for tag, _ in shown.elements if tag in ("img", "script")]
    assert not [attributes for _, attributes in shown.elements if any(key.startswith("on") for key in attributes)]


def test_the_page_stands_alone(trained_study: StudyFolder, tmp_path: Path) -> None:
    page = write(trained_study, tmp_path)
    elements = Text(page).elements
    assert len(page) < 8e6
    assert [tag for tag, _ in elements].count("link") == 0
    assert not [result for tag, result in elements if tag == "script" and "src" in result]
    assert [(result.get("content") or "").split(";")[0] for _, result in elements if result.get("http-equiv")] == [
        "default-src 'none'"
    ]
    assert page.count("plotly.js v") == 1
    titles = [SECTIONS.build(name).title for name in ordered()]
    assert re.findall(r"<h2 [^>]*>(.*?)</h2>", page) == titles
    assert sorted(json.loads(page.split('id="data">')[1].split("</script>")[0])) == ["board", "figures"]


def test_a_page_of_evil_names_holds_no_element_of_theirs(trained_study: StudyFolder, tmp_path: Path) -> None:
    page = write(with_settings(trained_study, name=EVIL, classes=[EVIL, "b"]), tmp_path)
    shown = Text(page)
    assert not [result for tag, result in shown.elements if tag == "img"]
    assert EVIL in shown.words
    assert len([tag for tag, _ in shown.elements if tag == "script"]) == 3


@given(NASTY, NASTY)
def test_data_cannot_leave_their_script(name: str, value: str) -> None:
    text = script_json({name: [value, EVIL]})
    assert not {"<", ">", "&", "\u2028"} & set(text)
    assert json.loads(text) == {name: [value, EVIL]}


@given(NASTY)
def test_a_table_shows_what_it_is_given_and_nothing_else(name: str) -> None:
    shown = Text(html.table(name, [name], [[name or "-"]]))
    assert {tag for tag, _ in shown.elements} <= {"p", "code", "div", "table", "thead", "tr", "th", "tbody", "td"}
    assert (name or "-") in shown.words


def test_a_study_without_a_result_has_a_report_that_says_so(small_study: StudyFolder, tmp_path: Path) -> None:
    page = write(small_study, tmp_path)
    assert "No trial of this study is complete" in first_words(page)


def test_an_unfinished_number_is_called_optimistic(trained_study: StudyFolder, tmp_path: Path) -> None:
    text = first_words(write(trained_study, tmp_path))
    assert "is optimistic: it is the best of 3 complete trials" in text
    assert "histotune confirm small" in text


HONEST = (
    "Trained again on fresh seeds and folds, trial 1, the search's best, reaches 0.520 [0.410, 0.600] balanced "
    "accuracy; in the search it had looked like 0.710, an optimism gap of 0.190 [0.100, 0.270]: no better than chance "
    "(0.500) and no better than the space's default (0.519), beyond noise."
)


def confirmation(*, beats: bool) -> dict[str, Any]:
    """What `histotune confirm` leaves behind."""
    winner = {
        "name": "trial 1",
        "number": 1,
        "search_score": 0.71,
        "confirmed": {"value": 0.52, "low": 0.41, "high": 0.6},
        "optimism_gap": {"value": 0.19, "low": 0.1, "high": 0.27},
        "tied": True,
    }
    default = winner | {"name": "default", "number": 0, "search_score": 0.5}
    return {
        "metric": "balanced_accuracy",
        "seeds": 5,
        "outer": 3,
        "contenders": [winner, default],
        "tied": ["trial 1", "default"],
        "recommended": "trial 1",
        "beats_default": beats,
        "best": "trial 1",
        "sentence": HONEST,
        "time": "2026-01-01",
        "command": "histotune confirm small",
    }


def test_a_confirmed_number_comes_first_and_a_winner_of_noise_is_called_one(
    trained_study: StudyFolder, tmp_path: Path
) -> None:
    files.write_json(trained_study.folder / "confirm" / "confirm.json", confirmation(beats=False))
    page = write(trained_study, tmp_path)
    text = first_words(page)
    assert text.startswith(HONEST)
    assert "+0.190<small>+0.100 to +0.270" in page
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert "Not significantly different from the best, trial 1: default." in Text(page).words
    marked = {data["board"]["rows"][at][2] for at in data["board"]["tied"]}
    assert marked == {"0", "1"}, "the space's default is a trial, too"


def test_a_contender_that_failed_is_neither_the_best_nor_the_winner(trained_study: StudyFolder, tmp_path: Path) -> None:
    result = confirmation(beats=False)
    failed = {"name": "trial 2", "search_score": 0.9, "confirmed": {"value": None}, "failed": "oom: memory"}
    result["contenders"] = [failed, *result["contenders"]]
    files.write_json(trained_study.folder / "confirm" / "confirm.json", result)
    known = findings(trained_study, tmp_path)
    page = str(SECTIONS.build("confirmation").build(known).html)
    assert page.count('data-head="difference from the best">the best<') == 1
    assert "trial 2 could not be trained again: oom: memory" in page
    assert '<div class="value">0.520</div>' in str(SECTIONS.build("summary").build(known).html)


def test_a_page_is_not_named_as_its_print(trained_study: StudyFolder, tmp_path: Path) -> None:
    code, output = call(trained_study, "-o", str(tmp_path / "page.pdf"), "--pdf")
    assert code == 2
    assert "a report is a page, named .html" in " ".join(output.split())
    assert not list(tmp_path.glob("page*"))


def noise(store: StudyFolder, trials: int) -> None:
    """Write trials whose logits know nothing of the label, beside a baseline as good as they are."""
    table = store.split.merge(store.known_labels(), on="id")
    rows = table[table["part"] == "val"]
    labels, rng = rows["label"].to_numpy(), np.random.default_rng(0)
    for number in range(-1, trials):
        folder = store.controls / "majority_class" if number < 0 else store.trial_folder(number)
        logits = rng.normal(size=(len(labels), 2)).astype(np.float32)
        saved = Predictions(rows["id"].to_numpy(str), rows["patient"].to_numpy(str), labels, logits)
        saved.save(folder / "predictions.npz")
        config = TrialConfig(seed=max(0, number))
        files.write_text(folder / "config.yaml", yaml.safe_dump(config.to_dict()))
        result = {"state": COMPLETE, "metrics": evaluate(softmax(logits), labels), "epochs": 1, "parameters": 9}
        write_record(folder, result | {"digest": config.digest(), "best_epoch": 1})


def test_on_noise_the_first_paragraph_says_that_the_winner_is_no_better(
    small_study: StudyFolder, tmp_path: Path
) -> None:
    noise(small_study, trials=6)
    text = first_words(write(small_study, tmp_path))
    assert "is optimistic" in text
    assert "is not significantly better than the best baseline" in text


def test_every_figure_that_a_section_names_is_registered() -> None:
    wanted = {one.name for name in SECTIONS.names() for one in SECTIONS.build(name).figures}
    assert wanted <= set(FIGURES.names())


def test_a_figure_that_cannot_be_drawn_is_a_sentence(small_study: StudyFolder, tmp_path: Path) -> None:
    places = Places(small_study.folder.parent, tmp_path)
    written = write_report(small_study, tmp_path / "page.html", places=places)
    assert "no complete trial yet" in written.missing["confusion_matrix"]
    assert (
        "Confusion matrix is not drawn: study 'small' has no complete trial yet"
        in Text(written.path.read_text(encoding="utf-8")).words
    )


def test_a_damaged_file_is_a_sentence_where_it_belongs(trained_study: StudyFolder, tmp_path: Path) -> None:
    (trained_study.folder / "audit.json").write_text("{", encoding="utf-8")
    page = write(trained_study, tmp_path)
    assert "audit.json is damaged" in Text(page).words


def test_a_broken_trial_folder_is_named(trained_study: StudyFolder, tmp_path: Path) -> None:
    (trained_study.trial_folder(1) / "metrics.json").write_text('{"state"', encoding="utf-8")
    with pytest.raises(StudyError, match=r"00001/metrics.json.*move the whole folder of its trial away"):
        write(trained_study, tmp_path)


def test_a_trial_without_predictions_leaves_the_rest_of_the_page(trained_study: StudyFolder, tmp_path: Path) -> None:
    for record in trained_study.trials():
        (record.folder / "predictions.npz").write_bytes(b"PK nonsense")
    page = write(trained_study, tmp_path)
    assert "predictions.npz is damaged" in Text(page).words
    assert '"board":' in page


def call(store: StudyFolder, *options: str) -> tuple[int, str]:
    """Call the command and return exit code and output."""
    answer = CliRunner().invoke(app, ["report", store.folder.name, "--runs", str(store.folder.parent), *options])
    return answer.exit_code, answer.output


def test_the_command_says_the_honest_sentence_and_where_the_page_is(trained_study: StudyFolder, tmp_path: Path) -> None:
    code, output = call(trained_study, "-o", str(tmp_path / "out.html"))
    assert code == 0
    assert "is optimistic" in output
    assert f"Wrote {tmp_path / 'out.html'}" in output
    code, output = call(trained_study, "-o", str(tmp_path / "out.html"), "--json")
    assert json.loads(output)["files"] == [str(tmp_path / "out.html")]


def test_no_such_study_is_an_error_with_the_nearest_name(trained_study: StudyFolder) -> None:
    code, output = call(StudyFolder(trained_study.folder.parent / "smal"))
    assert code == 2
    assert "Did you mean 'small'" in output


def test_a_place_that_cannot_be_written_is_an_error(trained_study: StudyFolder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, output = call(trained_study, "-o", str(tmp_path / "file" / "page.html"))
    assert code == 2
    assert "cannot write" in output


def test_without_a_browser_the_page_stands_and_the_error_says_what_to_install(
    trained_study: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    code, output = call(trained_study, "-o", str(tmp_path / "out.html"), "--pdf")
    assert code == 2
    assert "apt-get install chromium" in output
    assert (tmp_path / "out.html").exists()


def grown(store: StudyFolder, trials: int) -> StudyFolder:
    """Fill a study up with made-up trials, each of another configuration."""
    template = store.trials()[0]
    saved = json.loads((template.folder / "metrics.json").read_text(encoding="utf-8"))
    rng = np.random.default_rng(trials)
    for number in range(len(store.trials()), trials):
        folder = store.trial_folder(number)
        result = {name: float(rng.uniform(0.5, 1)) for name in saved["metrics"]}
        config = template.config() | {"seed": number, "batch_size": int(rng.integers(8, 999))}
        config["optimizer"] = config["optimizer"] | {
            "learning_rate": float(rng.uniform()),
            "weight_decay": rng.uniform(),
        }
        files.write_text(folder / "config.yaml", yaml.safe_dump(config))
        files.write_json(
            folder / "metrics.json", saved | {"metrics": result, "state": STOPPED, "digest": f"{number:x}"}
        )
    return store


def test_a_trial_adds_few_bytes_so_that_thousands_fit(trained_study: StudyFolder, tmp_path: Path) -> None:
    few = len(write(grown(trained_study, 100), tmp_path))
    many = len(write(grown(trained_study, 300), tmp_path))
    assert few + (many - few) / 200 * 4900 < 8e6
