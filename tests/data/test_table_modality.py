"""Tables: what is fitted agrees with scikit-learn, sees training rows only, and never lets a NaN through."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_selection import VarianceThreshold, f_classif
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from histotune.data.modalities import MODALITIES
from histotune.data.modalities._table_fit import anova, distinct
from histotune.data.modalities.table import FARTHEST, Table, TableColumn, TablePreprocessing
from histotune.errors import ConfigError, DataError

TABLE = MODALITIES.build("table")
GRADES = ("high", "low", "middle")


def made_up(seed: int = 0, n: int = 80, numbers: int = 6, missing: float = 0.2) -> tuple[Table, np.ndarray]:
    """A table of numbers and two columns of categories, with missing cells; and labels that the first number tells."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    values = rng.normal(size=(n, numbers + 2)) * 10.0 ** rng.integers(-2, 4, numbers + 2)
    values[:, 0] += 3 * labels * np.abs(values[:, 0]).mean()
    values[:, -2:] = rng.integers(0, 3, (n, 2))
    values[rng.random(values.shape) < missing] = np.nan
    columns = [TableColumn(f"gene{at}") for at in range(numbers)] + [
        TableColumn("grade", GRADES),
        TableColumn("race", ("a", "b", "c")),
    ]
    return Table(values.astype(np.float32), tuple(columns)), labels


def fit(table: Table, labels: np.ndarray, rows: np.ndarray | None = None, **options: Any) -> TablePreprocessing:
    rows = np.arange(len(table.values)) if rows is None else rows
    fitted = TABLE.fit(table, rows, labels[rows], options)
    assert isinstance(fitted, TablePreprocessing)
    return fitted


def features(fitted: TablePreprocessing, table: Table) -> np.ndarray:
    """What a network gets of every row."""
    result = fitted.standardise(torch.from_numpy(np.array(fitted.check(table).values)))
    assert result.dtype == torch.float32
    assert result.shape == (len(table.values), *fitted.shape)
    return result.numpy()


def numbers_only(table: Table) -> Table:
    kept = [at for at, column in enumerate(table.columns) if column.categories is None]
    return Table(table.values[:, kept], tuple(table.columns[at] for at in kept))


@pytest.mark.parametrize("seed", range(5))
def test_numbers_are_imputed_and_scaled_as_by_scikit_learn(seed: int) -> None:
    table, labels = made_up(seed)
    table, train = numbers_only(table), np.arange(50)
    result = features(fit(table, labels, train), table)
    imputer, scaler = SimpleImputer(), StandardScaler()
    expected = imputer.fit_transform(table.values[train].astype(np.float64))
    scaler.fit(expected)
    assert result == pytest.approx(scaler.transform(imputer.transform(table.values)), abs=2e-5)


@pytest.mark.parametrize("seed", range(5))
def test_categories_are_encoded_as_by_scikit_learn(seed: int) -> None:
    table, labels = made_up(seed, numbers=0)
    table.values[::2][table.values[::2] == 2] = 1  # the training rows know two of three
    train = np.arange(0, 80, 2)
    fitted = fit(table, labels, train)
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    encoder.fit(table.values[train])
    known = [not np.isnan(word) for words in encoder.categories_ for word in words]  # a missing one is none for us
    assert np.array_equal(features(fitted, table), encoder.transform(table.values)[:, known])
    assert fitted.names == ["grade=high", "grade=low", "race=a", "race=b"]


@pytest.mark.parametrize("seed", range(5))
def test_anova_is_that_of_scikit_learn(seed: int) -> None:
    table, labels = made_up(seed, missing=0.0)
    expected, _ = f_classif(table.values.astype(np.float64), labels)
    assert anova(table.values.astype(np.float64), labels) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_constant_columns_leave_as_by_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2, (6, 40)).astype(np.float64)
    unique = values[:, np.sort(np.unique(values, axis=1, return_index=True)[1])]
    expected = VarianceThreshold().fit(unique).get_support()
    assert np.array_equal(values[:, distinct(values)], unique[:, expected])


def test_selection_by_f_and_by_variance() -> None:
    table, labels = made_up(missing=0.0)
    table = numbers_only(table)
    worth = {"anova": f_classif(table.values, labels)[0], "variance": table.values.var(axis=0)}
    for name, expected in worth.items():
        best = np.sort(np.argsort(-expected)[:2])
        assert fit(table, labels, select=name, columns=2).names == [f"gene{at}" for at in best]
    assert fit(table, labels, select="anova", columns=0).shape == fit(table, labels, columns=2).shape == (6,)


def test_log_shifts_only_what_is_negative_and_stops_at_the_least_of_training() -> None:
    values = np.array([[-3.0, 2.0], [0.0, 7.0], [5.0, 3.0], [-9.0, -9.0]], np.float32)
    table, train = Table(values, (TableColumn("a"), TableColumn("b"))), np.arange(3)
    result = features(fit(table, np.array([0, 1, 1, 0]), train, log1p=True), table)
    logged = np.log1p(np.array([[0, 2], [3, 7], [8, 3]]))
    floor = np.array([[0.0, 0.0]])
    expected = (np.concatenate([logged, floor]) - logged.mean(axis=0)) / logged.std(axis=0)
    assert result == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "share", "reach"),
    [
        ({"clip": "iqr", "whiskers": 1.0}, 0.25, 1.0),
        ({"clip": "quantile", "tail": 0.1}, 0.1, 0.0),
    ],
)
def test_clipping_stops_at_the_limits_of_training(options: dict[str, Any], share: float, reach: float) -> None:
    rng = np.random.default_rng(0)
    values = np.append(rng.normal(size=60), [36_893, -1e30]).astype(np.float32)[:, None]
    table, train = Table(values, (TableColumn("gene"),)), np.arange(61)
    low, high = np.quantile(values[train].astype(np.float64), [share, 1 - share])
    low, high = low - reach * (high - low), high + reach * (high - low)
    clipped = np.clip(values.astype(np.float64), low, high)
    expected = (clipped - clipped[train].mean()) / clipped[train].std()
    assert features(fit(table, np.arange(62) % 2, train, **options), table) == pytest.approx(expected, abs=1e-5)


def test_a_rare_mutation_is_not_clipped_away() -> None:
    values = np.zeros((50, 1), np.float32)
    values[7] = 1
    table = Table(values, (TableColumn("TP53"),))
    for clip in ("iqr", "quantile"):
        assert np.unique(features(fit(table, np.arange(50) % 2, clip=clip, tail=0.05), table)).size == 2


def test_indicators_say_what_is_missing_and_what_is_unseen() -> None:
    columns = (TableColumn("age"), TableColumn("grade", GRADES), TableColumn("whole"))
    values = [[1, 0, 1], [2, 1, 2], [np.nan, np.nan, 3], [3, 1, 5], [4, 2, np.nan]]
    table = Table(np.array(values, np.float32), columns)
    fitted = fit(table, np.array([0, 1, 0, 1, 0]), np.arange(4), indicator=True)
    # the two columns miss the same training case, so that the second indicator is a copy of the first
    assert fitted.names == ["age", "whole", "grade=high", "grade=low", "age is missing"]
    values = [[1, np.nan, 1], [np.nan, 0, 1], [2, 1, 2], [5, 0, 2], [1, 2, 1]]
    table = Table(np.array(values, np.float32), columns)
    fitted = fit(table, np.array([0, 1, 0, 0, 1]), np.arange(4), indicator=True)
    assert fitted.names[-2:] == ["age is missing", "grade is missing"]
    assert features(fitted, table)[:, -2:].tolist() == [[0, 1], [1, 0], [0, 0], [0, 0], [0, 1]]  # the last is unseen


def test_duplicates_and_constants_leave() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=20)
    values = np.stack([first, np.ones(20), first, np.full(20, np.nan), -first], axis=1).astype(np.float32)
    table = Table(values, tuple(TableColumn(name) for name in "abcde"))
    assert fit(table, np.arange(20) % 2, indicator=True).names == ["a", "e"]


def test_nothing_to_learn_from_is_said() -> None:
    table = Table(np.ones((5, 2), np.float32), (TableColumn("a"), TableColumn("b")))
    with pytest.raises(DataError, match="none of 2 columns varies over the 5 training cases"):
        fit(table, np.arange(5))
    with pytest.raises(DataError, match="no training case has this table"):
        fit(table, np.arange(5), np.zeros(0, np.int64))


ALL = [
    {},
    {"log1p": True, "clip": "iqr", "select": "anova", "columns": 4, "indicator": True},
    {"clip": "quantile", "select": "variance", "columns": 5},
]


@pytest.mark.parametrize("options", ALL)
def test_only_the_training_rows_are_seen(options: dict[str, Any]) -> None:
    table, labels = made_up()
    train, others = np.arange(40), np.arange(40, 80)
    table.values[:, 1] = np.where(np.arange(80) < 40, 7.0, labels)  # constant in training, the label itself elsewhere
    before = fit(table, labels, train, **options)
    assert "gene1" not in before.names
    changed = Table(table.values.copy(), table.columns)
    changed.values[others] = np.random.default_rng(9).normal(size=(40, 8)) * 1e6
    changed.values[others, -2:] = np.random.default_rng(9).integers(0, 3, (40, 2))
    changed.values[others[:3], 6] = 3  # a category that nobody else has, and that moves the codes of all others
    changed.values[:, 6] = (changed.values[:, 6] + 1) % 4
    changed = Table(changed.values, (*table.columns[:6], TableColumn("grade", ("absent", *GRADES)), table.columns[7]))
    turned = labels.copy()
    turned[others] = 2 - turned[others]
    after = fit(changed, turned, train, **options)
    assert json.dumps(before.to_dict()) == json.dumps(after.to_dict())
    assert np.array_equal(features(before, table)[train], features(after, changed)[train])


@pytest.mark.parametrize("options", ALL)
def test_what_is_saved_gives_the_same_features(options: dict[str, Any]) -> None:
    table, labels = made_up()
    fitted = fit(table, labels, np.arange(50), **options)
    restored = TABLE.restore(json.loads(json.dumps(fitted.to_dict())))
    assert isinstance(restored, TablePreprocessing)
    assert restored.to_dict() == fitted.to_dict()
    assert np.array_equal(features(restored, table), features(fitted, table))


@pytest.mark.parametrize("options", ALL)
def test_a_case_does_not_depend_on_its_batch_and_the_source_gives_the_rows(options: dict[str, Any]) -> None:
    table, labels = made_up()
    fitted = fit(table, labels, **options)
    source = TABLE.source(table, torch.device("cpu"))
    rows = np.array([5, 3, 3, 70])
    raw = source.take(rows)
    assert isinstance(raw, torch.Tensor)
    assert np.array_equal(raw.numpy(), table.values[rows], equal_nan=True)
    assert np.array_equal(fitted.standardise(raw), features(fitted, table)[rows])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=8, max_size=8),
    st.sampled_from(ALL),
    st.sampled_from([1.0, 1e-38, 1e30]),
)
def test_no_raw_value_gives_nan_or_infinity(cells: list[float], options: dict[str, Any], scale: float) -> None:
    table, labels = made_up()
    table.values[:, :6] *= np.float32(scale)
    fitted = fit(table, labels, **options)
    result = fitted.standardise(torch.tensor([cells]))
    assert result.isfinite().all()
    assert result.abs().max() <= FARTHEST


@pytest.mark.parametrize("options", ALL)
def test_a_graph_of_it_can_be_exported(options: dict[str, Any]) -> None:
    table, labels = made_up()
    fitted = fit(table, labels, **options)

    class Module(torch.nn.Module):
        def forward(self, raw: torch.Tensor) -> torch.Tensor:
            return fitted.standardise(raw)

    raw = torch.from_numpy(table.values)
    program = torch.export.export(Module(), (raw,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    assert torch.equal(program.module()(raw[:7]), fitted.standardise(raw[:7]))


def test_columns_are_found_by_name_and_categories_by_word() -> None:
    table, labels = made_up()
    fitted = fit(table, labels)
    order = np.array([7, 3, 0, 6, 1, 2, 5, 4])
    words = ("unheard of", *GRADES[::-1])
    columns = [table.columns[at] for at in order]
    columns[3] = TableColumn("grade", words)
    values = table.values[:, order].copy()
    values[:, 3] = 3 - values[:, 3]
    moved = Table(np.column_stack([np.zeros(80, np.float32), values]), (TableColumn("new"), *columns))
    assert np.array_equal(features(fitted, moved), features(fitted, table))
    unseen = Table(moved.values.copy(), moved.columns)
    unseen.values[:, 4] = 0
    grades = [name.startswith("grade=") for name in fitted.names]
    assert not features(fitted, unseen)[:, grades].any()


def test_a_column_that_no_feature_needs_may_be_missing() -> None:
    table, labels = made_up(missing=0.0)
    fitted = fit(table, labels, select="anova", columns=2)
    needed = [
        at for at, column in enumerate(table.columns) if column.name in re.findall(r"\w+", " ".join(fitted.names))
    ]
    fewer = Table(table.values[:, needed], tuple(table.columns[at] for at in needed))
    assert np.array_equal(features(fitted, fewer), features(fitted, table))


def test_what_does_not_fit_is_named() -> None:
    table, labels = made_up()
    fitted = fit(table, labels)
    with pytest.raises(DataError, match=r"lacks the columns 'gene0', 'gene1', 'gene2' and 3 more.*such as grade, race"):
        fitted.check(Table(table.values[:, 6:], table.columns[6:]))
    renamed = (*table.columns[:6], TableColumn("grade"), table.columns[7])
    with pytest.raises(DataError, match="'grade' holds numbers; the model was trained on categories"):
        fitted.check(Table(table.values, renamed))
    wild = Table(table.values.copy(), table.columns)
    wild.values[4, 2] = -np.inf
    with pytest.raises(DataError, match=r"'gene2' of case 4 .* is infinite"):
        fitted.check(wild)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"log": True}, "no option 'log'. Did you mean 'log1p'"),
        ({"log1p": 1}, "'log1p' .* must be one of false | true, got 1"),
        ({"clip": "iqrs"}, "Did you mean 'iqr'"),
        ({"whiskers": 0}, r"\(0, inf\), got 0"),
        ({"tail": 0.5}, r"\(0, 0.5\), got 0.5"),
        ({"select": "f"}, "none | variance | anova"),
        ({"columns": 2.5}, "must be a whole number"),
        ({"indicator": "yes"}, "false | true"),
    ],
)
def test_options_are_strict(options: dict[str, Any], said: str) -> None:
    table, labels = made_up()
    with pytest.raises(ConfigError, match=said):
        TABLE.check_options(options)
    with pytest.raises(ConfigError, match=said):
        fit(table, labels, **options)


def test_a_table_comes_back_from_disk(tmp_path: Path) -> None:
    table, _ = made_up()
    TABLE.save(table, tmp_path)
    loaded = TABLE.load(tmp_path)
    assert isinstance(loaded.values, np.memmap)
    assert np.array_equal(loaded.values, table.values, equal_nan=True)
    assert loaded.columns == table.columns
    assert TABLE.cases(loaded) == 80
    (tmp_path / "columns.json").write_text("[]")
    with pytest.raises(ValueError, match="for 0 columns"):
        TABLE.load(tmp_path)


def test_digests_are_of_the_content_of_a_row() -> None:
    table, _ = made_up()
    digests = TABLE.digests(table)
    assert len(set(digests)) == 80
    chosen = TABLE.select(table, np.array([7, 2]))
    assert TABLE.digests(chosen) == [digests[7], digests[2]]
    more = (*table.columns[:6], TableColumn("grade", ("a new one", *GRADES)), table.columns[7])
    recoded = Table(table.values + np.eye(8, dtype=np.float32)[6], more)
    assert TABLE.digests(recoded) == digests  # what other rows hold moves the codes, not the content
    for at in (0, 6):
        other = Table(table.values.copy(), table.columns)
        other.values[3, at] = 1.0 if other.values[3, at] != 1.0 else 2.0
        assert [a != b for a, b in zip(TABLE.digests(other), digests, strict=True)] == [row == 3 for row in range(80)]


def test_a_summary_is_plain_numbers() -> None:
    table, _ = made_up()
    rows = np.array([3, 0, 9])
    result = TABLE.summary(table, rows)
    assert result.shape == (3, 6 + 3 + 3)
    assert np.array_equal(result[:, :6], table.values[rows, :6], equal_nan=True)
    missing = np.isnan(table.values[rows, 6])
    assert np.array_equal(np.isnan(result[:, 6:9]).all(axis=1), missing)
    assert np.array_equal(result[~missing, 6:9].argmax(axis=1), table.values[rows, 6][~missing])


def test_1558_genes_are_saved_small_and_fast() -> None:
    rng = np.random.default_rng(0)
    table = Table(
        rng.normal(size=(600, 1558)).astype(np.float32), tuple(TableColumn(f"G{at}_rnaseq") for at in range(1558))
    )
    started = time.perf_counter()
    fitted = fit(table, rng.integers(0, 5, 600), log1p=True, clip="iqr", indicator=True)
    text = json.dumps(fitted.to_dict())
    TABLE.restore(json.loads(text))
    assert time.perf_counter() - started < 3
    assert len(text) < 250_000
