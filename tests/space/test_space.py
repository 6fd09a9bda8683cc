"""Search spaces: every shipped one draws valid configurations; every mistake is named with its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest

from histotune.core.config import TrialConfig
from histotune.errors import ConfigError
from histotune.ingest.datasets import DATASETS
from histotune.metrics.scores import check_metric
from histotune.space import Space, _branches, check_config, load_space, read_space, set_values, space_names

SMALL = """
dataset: synthetic
epochs: 3
model:
  branches:
    image:
      backbone: {choice: [alexnet, alexnet32]}
loss:
  choice:
    cross_entropy: {}
    focal:
      gamma: {low: 0.5, high: 2.5, step: 0.5}
      beta: {choice: [0.0, 0.9, 0.99]}
optimizer:
  learning_rate: {low: 1e-5, high: 1e-2, log: true}
  weight_decay: 1e-4
batch_size: {choice: [32, 64]}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def ranges(space: Space) -> dict[str, str]:
    return {row.path: row.range for row in space.describe()}


@pytest.mark.parametrize("name", space_names())
def test_twenty_draws_are_valid(name: str) -> None:
    space = load_space(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        check_config(TrialConfig.from_dict(space.suggest(trial)))
        assert space.accepts(trial.params)
        study.tell(trial, 0.0)


@pytest.mark.parametrize("name", space_names())
def test_a_shipped_space_names_what_exists(name: str) -> None:
    space = load_space(name)
    assert space.dataset in DATASETS.names()
    check_metric(space.metric)
    DATASETS.check(space.dataset, space.options)
    assert space.description
    check_config(TrialConfig.from_dict(space.default()))


@pytest.mark.parametrize("name", space_names())
def test_the_effective_space_reads_back_as_itself(name: str) -> None:
    space = load_space(name)
    again = read_space(space.to_dict(), name)
    assert again.describe() == space.describe()
    assert again.to_dict() == space.to_dict()


@pytest.mark.parametrize("name", [*space_names(), "optimizers"])
def test_the_switches_of_the_plain_data_are_those_of_the_space(name: str) -> None:
    optimizer = {"choice": {"adamw": {"weight_decay": {"low": 0.01, "high": 0.1}}, "sgd": None}}
    several = {"dataset": "synthetic", "optimizer": optimizer, "loss": {"choice": ["focal", {"name": "cross_entropy"}]}}
    space = read_space(several, name) if name == "optimizers" else load_space(name)
    assert list(_branches.branches(_branches.switches(space.to_dict()))) == space.branches()
    assert name != "optimizers" or len(space.branches()) == 4


def test_a_parameter_exists_only_under_its_own_option(small: Path) -> None:
    space = load_space(small)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(20):
        trial = study.ask()
        loss = space.suggest(trial)["loss"]
        assert ("gamma" in loss) == (loss["name"] == "focal") == ("loss.focal.gamma" in trial.params)
        study.tell(trial, 0.0)


def test_the_default_takes_the_file_then_the_component_then_the_middle(small: Path) -> None:
    space = load_space(small, ranges=["loss.gamma=3:5", "augment.mixup=0.25:0.75"])
    assert space.default()["optimizer"]["learning_rate"] == pytest.approx(1e-3)  # OptimizerConfig's own
    assert load_space(small).default_parameters().keys() == {
        "loss",
        "optimizer.learning_rate",
        "batch_size",
        "model.branches.image.backbone",
    }
    assert space.default()["augment"]["mixup"] == 0.5
    small.write_text(SMALL.replace("log: true", "log: true, default: 3e-4"))
    assert load_space(small).default()["optimizer"]["learning_rate"] == 3e-4


def test_numbers_take_the_type_of_their_field(small: Path) -> None:
    small.write_text(SMALL + "augment: {color_jitter: {low: 0, high: 0.5}}\nema_decay: 0\n")
    default = load_space(small, ranges=["optimizer.clip_norm=1:3", "patience=1:5"]).default()
    assert type(default["optimizer"]["clip_norm"]) is float
    assert type(default["patience"]) is int
    assert type(default["ema_decay"]) is float


@pytest.mark.parametrize(
    ("wrong", "line", "words"),
    [
        ("dataset: idc\nloss: focl\n", 2, "unknown loss 'focl'. Did you mean 'focal'"),
        ("dataset: idc\nloss:\n  choice:\n    focal:\n      gama: 1\n", 5, "loss.focal.gama: .*Did you mean 'gamma'"),
        ("dataset: idc\nloss: {choice: [focal, nil]}\n", 2, "unknown loss 'nil'"),
        ("dataset: idc\nmodel:\n  branches:\n    image:\n      backbone: alexnett\n", 5, "Did you mean 'alexnet"),
        ("dataset: idc\nmodel: {branches: {image: {backbone: timm/resnet19}}}\n", 2, "timm/resnet18"),
        ("dataset: idc\nepoch: 3\n", 2, "unknown key. Did you mean 'epochs'"),
        ("dataset: idc\noptimizer:\n  lerning_rate: 3\n", 3, "optimizer.lerning_rate: .*Did you mean 'learning_rate'"),
        ("dataset: idc\nepochs: twenty\n", 2, "epochs: expected int, got 'twenty'"),
        ("dataset: idc\nepochs: {low: 1.5, high: 3}\n", 2, "whole numbers"),
        ("dataset: idc\nepochs: {low: 1}\n", 2, "needs both 'low' and 'high'"),
        ("dataset: idc\nepochs: {low: 3, high: 1}\n", 2, "'low' must be below 'high', got low=3, high=1"),
        ("dataset: idc\nema_decay: {low: 0, high: 1, log: true}\n", 2, "above 0, got low=0"),
        ("dataset: idc\nema_decay: {low: 0.1, high: 1, step: 0.25}\n", 2, "must divide .* try high=0.85"),
        ("dataset: idc\nema_decay: {low: 0.1, high: 0.2, step: 0.1, log: true}\n", 2, "exclude each other"),
        ("dataset: idc\nema_decay: {low: 0.1, high: 0.2, stepp: 1}\n", 2, "unknown key 'stepp'. Did you mean 'step'"),
        ("dataset: idc\nema_decay: {low: 0.1, high: 1.5}\n", 2, r"ema_decay must lie in \[0, 1\), got 1.5"),
        ("dataset: idc\nema_decay: {low: 0.1, high: 0.2, default: 0.3}\n", 2, "default 0.3 is not in 0.1 to 0.2"),
        ("dataset: idc\nbatch_size: {choice: []}\n", 2, "at least one value"),
        ("dataset: idc\nbatch_size: {choice: [8, 8]}\n", 2, "is listed twice"),
        ("dataset: idc\nbatch_size: {choice: [8, [9]]}\n", 2, r"expected int, got \[9\]"),
        ("dataset: idc\nimage_size: {low: 32, high: 64}\n", 2, "the images are prepared once for each size"),
        ("dataset: idc\noptimizer:\n  name: adam\n", 3, "Did you mean 'adamw'"),
        ("dataset: idc\nloss:\n  choice:\n    focal:\n      gamma: {low: -1, high: 1}\n", 5, r"\[0, inf\), got -1.0"),
        ("dataset: idc\naugment: {flip: 1}\n", 2, "expected bool, got 1"),
        ("dataset: idc\noptimizer: 3\n", 2, "expected a mapping, got 3"),
        ("dataset: idc\nmetric: 3\n", 2, "expected a text, got 3"),
        ("dataset: [idc\n", 2, "not valid YAML"),
        ("dataset: idc\nepochs:\n\t3\n", 3, "not valid YAML"),
        ("dataset: idc\ndataset: demo\n", 2, "is given twice"),
        ("- idc\n", 1, "a mapping of keys"),
        ("extends: demoo\n", 1, "Did you mean 'demo'"),
    ],
)
def test_a_mistake_names_file_line_path_and_the_nearest_name(tmp_path: Path, wrong: str, line: int, words: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(wrong)
    with pytest.raises(ConfigError, match=words) as caught:
        load_space(path)
    assert f"{path}, line {line}:" in str(caught.value)


def test_a_space_without_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"empty\.yaml: dataset: missing"):
        load_space(tmp_path / "empty.yaml")


@pytest.mark.parametrize("name", ["ibc", "missing.yaml"])
def test_an_unknown_space_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"Known: .*demo"):
        load_space(name)


def test_a_space_says_only_what_differs_from_the_one_it_extends(small: Path) -> None:
    child = small.with_name("child.yaml")
    child.write_text("extends: small\nepochs: 9\nloss: focal\noptimizer: {weight_decay: {low: 0, high: 1}}\n")
    space = load_space(child)
    assert space.default()["epochs"] == 9
    assert space.default()["loss"] == {"name": "focal"}
    assert ranges(space)["optimizer.learning_rate"] == ranges(load_space(small))["optimizer.learning_rate"]
    assert ranges(space)["optimizer.weight_decay"] == "0 to 1"


def test_dataset_options_do_not_outlive_their_dataset(small: Path) -> None:
    small.write_text(SMALL + "options: {cases: 100}\n")
    child = small.with_name("child.yaml")
    child.write_text("extends: small\ndataset: idc\n")
    assert load_space(child).options == {}


def test_spaces_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b\n")
    (tmp_path / "b.yaml").write_text("extends: a\n")
    with pytest.raises(ConfigError, match="a -> b -> a"):
        load_space(tmp_path / "a.yaml")


def test_fix_takes_a_choice_out_of_the_search(small: Path) -> None:
    space = load_space(small, fix=["loss.name=focal", "loss.gamma=1", "model.backbone=alexnet32", "epochs=7"])
    assert space.default()["loss"] == {"name": "focal", "gamma": 1.0, "beta": 0.0}
    assert space.default()["epochs"] == 7
    assert space.default()["model"]["branches"]["image"]["backbone"]["name"] == "alexnet32"
    assert {p.path for p in space.parameters()} == {"loss.focal.beta", "optimizer.learning_rate", "batch_size"}


def test_a_parameter_is_set_under_every_option_that_has_it(small: Path) -> None:
    space = load_space(small, fix=["loss.beta=0.5"])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    assert {space.suggest(study.ask())["loss"]["beta"] for _ in range(10)} == {0.5}
    with pytest.raises(ConfigError, match="no option here has it"):
        load_space(small, fix=["loss.focal.beta=0.5", "loss.name=cross_entropy"])


def test_the_order_of_edits_has_no_meaning(small: Path) -> None:
    edits = ["loss.gamma=1", "loss.name=focal", "model.backbone.width=32", "model.backbone=alexnet32"]
    assert load_space(small, fix=edits).to_dict() == load_space(small, fix=edits[::-1]).to_dict()


def test_range_and_choices_widen_and_narrow(small: Path) -> None:
    space = load_space(
        small,
        ranges=["optimizer.learning_rate=1e-4:1e-3:log", "loss.gamma=0:2:step=0.5", "patience=2:4"],
        choices=["batch_size=16,32,128", "model.backbone=alexnet,timm/resnet18", "loss=focal"],
    )
    text = ranges(space)
    assert text["optimizer.learning_rate"] == "0.0001 to 0.001, log"
    assert text["loss.focal.gamma"] == "0 to 2, step 0.5"
    assert text["patience"] == "2 to 4"
    assert text["batch_size"] == "16, 32, 128"
    assert text["model.branches.image.backbone"] == "alexnet, timm/resnet18"
    assert space.default()["loss"]["name"] == "focal"


@pytest.mark.parametrize(
    ("option", "text", "words"),
    [
        ("fix", "loss.name=focl", "Did you mean 'focal'"),
        ("fix", "loss.gama=2", "Did you mean 'gamma'"),
        ("fix", "epochs", "expected PATH=VALUE"),
        ("fix", "epochs=", "expected PATH=VALUE"),
        ("fix", "epochs=many", "expected int, got 'many'"),
        ("fix", "epochs=0", "at least 1, got 0"),
        ("fix", "model.backbne=alexnet", "unknown key"),
        ("fix", "loss=3", "expected a name"),
        ("ranges", "optimizer.learning_rate=1:0.1", "'low' must be below 'high'"),
        ("ranges", "optimizer.learning_rate=1", "expected low:high"),
        ("ranges", "optimizer.learning_rate=1:2:lin", "'log' or 'step=NUMBER'"),
        ("ranges", "loss=1:3", "loss"),
        ("choices", "loss=focal,nil", "unknown loss 'nil'"),
        ("choices", "batch_size=8,eight", "expected int, got 'eight'"),
    ],
)
def test_a_wrong_edit_is_quoted_in_the_error(small: Path, option: str, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_space(small, **{option: [text]})  # type: ignore[arg-type]
    assert text in str(caught.value)


def test_a_model_of_two_branches_has_no_short_path(small: Path) -> None:
    small.write_text("dataset: idc\nmodel: {branches: {a: {backbone: alexnet}, b: {backbone: alexnet}}}\n")
    with pytest.raises(ConfigError, match=r"branches a, b; write model\.branches\.a\.backbone"):
        load_space(small, fix=["model.backbone=alexnet32"])


def test_values_are_set_in_one_configuration(small: Path) -> None:
    default = load_space(small).default()
    config = set_values(default, ["loss.name=focal", "loss.gamma=3", "epochs=2", "optimizer.name=sgd"])
    assert config["loss"] == {"name": "focal", "gamma": 3.0}
    assert (config["epochs"], config["optimizer"]["name"]) == (2, "sgd")
    assert default["epochs"] == 3
    with pytest.raises(ConfigError, match="not a range or choice"):
        set_values(default, ["epochs={low: 1, high: 3}"])


def test_an_optimizer_may_be_chosen_with_settings_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(
        "dataset: idc\noptimizer:\n  choice:\n    adamw: {learning_rate: {low: 1e-4, high: 1e-2, log: true}}\n"
        "    sgd: {learning_rate: {low: 1e-2, high: 1, log: true}, momentum: 0.5}\n"
    )
    space = load_space(path)
    assert {p.path for p in space.parameters()} == {
        "optimizer",
        "optimizer.adamw.learning_rate",
        "optimizer.sgd.learning_rate",
    }
    fixed = load_space(path, fix=["optimizer.name=sgd", "optimizer.momentum=0.8"])
    assert fixed.default()["optimizer"]["momentum"] == 0.8


def test_sizes_and_epochs_are_known_before_anything_is_drawn(small: Path) -> None:
    space = load_space(small, choices=["image_size=48,32", "epochs=4,9"])
    assert space.image_sizes() == (32, 48)
    assert space.epochs() == 9
    assert load_space(small).image_sizes() == (TrialConfig.image_size,)


def test_values_from_outside_are_not_accepted(small: Path) -> None:
    space, rng = load_space(small), np.random.default_rng(0)
    inside = space.default_parameters()
    assert space.accepts(inside)
    assert not space.accepts(inside | {"optimizer.learning_rate": 1.0})
    assert not space.accepts(inside | {"loss": "focal"})
    assert not space.accepts(inside | {"surplus": float(rng.random())})
    assert space.accepts(inside | {"loss": "focal", "loss.focal.gamma": 1.0, "loss.focal.beta": 0.9})
    assert not space.accepts(inside | {"loss": "focal", "loss.focal.gamma": 1.1, "loss.focal.beta": 0.9})
