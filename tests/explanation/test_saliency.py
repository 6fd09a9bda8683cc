"""The maps tell the truth: class activation maps, uniform attention, places, classes, views, one image at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from histotune.core.config import TrialConfig
from histotune.data.augment import symmetry, undo_symmetry
from histotune.data.batches import images_as_cases
from histotune.data.modalities.image import ImagePreprocessing
from histotune.errors import ConfigError
from histotune.explanation.saliency import (
    Key,
    attention_maps,
    grad_cam,
    mapped_branches,
    maps,
    positions,
    shares,
    why_empty,
)
from histotune.models.backbones.timm_image import TimmBackbone
from histotune.models.fusions._attention import CrossAttention
from histotune.models.network import Model, build_model
from histotune.models.predictor import Predictor, inputs_of

CCT = {"backbone": "cct_2"}
TWO = {"cnn": {"backbone": "alexnet"}, "transformer": CCT}
SIZE = 5


def predictor(branches: dict[str, Any], fusion: Any = "none", **settings: Any) -> Predictor:
    """Return a model with weights at random, in evaluation mode."""
    torch.manual_seed(0)
    known = {"image_size": 32, "model": {"branches": branches, "fusion": fusion}, **settings}
    config = TrialConfig.from_dict(known)
    side = config.image_size
    preparations = {"image": ImagePreprocessing((0.7, 0.5, 0.6), (0.2, 0.2, 0.2), side)}
    model = build_model(config, (5, 9)).eval()
    return Predictor(config, ("benign", "malignant"), 1, preparations, model, torch.device("cpu"))


def cmaf(**settings: Any) -> Predictor:
    return predictor(TWO, {"name": "cmaf", "dim": 32, "heads": 4, "temperature": 0.2}, **settings)


def images(side: int = 32) -> np.ndarray:
    """Return images of blobs, so that places differ, uint8 [5, S, S, 3]."""
    coarse = np.random.default_rng(0).integers(0, 256, (SIZE, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(side // 4, axis=1).repeat(side // 4, axis=2)


def inputs(given: Predictor) -> tuple[Any, Any]:
    pixels = torch.from_numpy(images(given.config.image_size))
    return inputs_of(given.model, given.preparations, images_as_cases(pixels, ["image"]))


def asked(label: int) -> np.ndarray:
    return np.full(SIZE, label, np.int64)


# --- Grad-CAM


@pytest.mark.parametrize("label", [0, 1])
def test_of_pooled_means_and_a_linear_head_it_is_the_class_activation_map(label: int) -> None:
    """Zhou et al., 2016: the logit is the mean over places of W_c A, so Grad-CAM is ReLU(W_c A) / T exactly."""
    given = predictor({"image": {"backbone": {"name": "timm/resnet18", "small_stem": True}}}, loss="cross_entropy")
    values, present = inputs(given)
    result = grad_cam(given.model, values, present, torch.from_numpy(asked(label)), ["image"])["image"]
    with torch.no_grad():
        tokens = given.model.outputs(values, present)[0]["image"].tokens  # [B, T, D]
        activation = tokens @ given.model.objective.head.weight[label]  # type: ignore[index, union-attr]
    expected = activation.relu().unflatten(1, (4, 4)) / 16
    assert expected.any()
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_of_a_class_token_it_is_taken_before_the_last_attention(name: str) -> None:
    """No position of the last layer reaches a class token; those before the last attention do."""
    options = {"name": f"timm/{name}", "patch_size": 8, "depth": 2}
    given = predictor({"image": {"backbone": options}}, loss="cross_entropy")
    values, present = inputs(given)
    result = grad_cam(given.model, values, present, torch.from_numpy(asked(1)), ["image"])["image"]
    branch: Any = given.model.branches["image"]
    net = branch.network
    x = net.norm_pre(net._pos_embed(net.patch_embed(values["image"])))
    x = net.blocks[0](x)
    block = net.blocks[1]
    normed = block.norm1(x).detach().requires_grad_()
    y = x.detach() + block.ls1(block.attn(normed))
    y = net.norm(y + block.ls2(block.mlp(block.norm2(y))))
    outputs, masks = given.model.outputs(values, present)
    outputs = {"image": outputs["image"]._replace(pooled=branch._output(y).pooled)}
    logits = given.model.objective.scores(given.model.read(outputs, masks))
    gradient = torch.autograd.grad(logits[:, 1].sum(), normed)[0][:, branch.prefix :]
    expected = (gradient.mean(dim=1, keepdim=True) * normed[:, branch.prefix :]).sum(dim=2).relu().unflatten(1, (4, 4))
    assert expected.any()
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["cait_xxs24_224", "vit_small_patch14_reg4_dinov2", "beit_base_patch16_224"])
def test_other_class_tokens_have_a_map_too(name: str) -> None:
    depth = {} if "cait" in name else {"depth": 1}
    side = {"patch_size": 16} if "cait" not in name else {}
    given = predictor({"image": {"backbone": {"name": f"timm/{name}", **side, **depth}}}, loss="cross_entropy")
    values, present = inputs(given)
    before = {name for name, _ in given.model.named_parameters()}
    classes = (torch.from_numpy(asked(label)) for label in (0, 1))
    cams = [grad_cam(given.model, values, present, label, ["image"])["image"] for label in classes]
    assert any(cam.any() for cam in cams)
    assert {name for name, _ in given.model.named_parameters()} == before


def test_of_a_class_token_whose_last_layer_is_unknown_the_reason_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    given = predictor({"image": {"backbone": {"name": "timm/vit_tiny_patch16_224", "depth": 1}}}, loss="cross_entropy")
    assert why_empty(given.model, "image") == "no position speaks for the class"
    monkeypatch.setattr(TimmBackbone, "last_mixing", lambda _: None)
    values, present = inputs(given)
    assert not grad_cam(given.model, values, present, torch.from_numpy(asked(1)), ["image"])["image"].any()
    assert "class token alone is read" in why_empty(given.model, "image")


def test_it_is_the_definition_written_out() -> None:
    given = cmaf()
    values, present = inputs(given)
    result = grad_cam(given.model, values, present, torch.from_numpy(asked(1)), ["cnn"])["cnn"]
    outputs, masks = given.model.outputs(values, present)
    for case in range(SIZE):
        logit = given.model.objective.scores(given.model.read(outputs, masks))[case, 1]
        gradient = torch.autograd.grad(logit, outputs["cnn"].tokens, retain_graph=True)[0][case]
        expected = np.zeros(16)
        for channel in range(gradient.shape[1]):
            alpha = gradient[:, channel].mean().item()
            expected += alpha * outputs["cnn"].tokens[case, :, channel].detach().numpy()
        np.testing.assert_allclose(result[case].flatten(), np.maximum(expected, 0), atol=1e-6)


def test_it_lies_between_0_and_1_and_depends_on_the_class() -> None:
    given = cmaf()
    benign, malignant = (maps(given, images(), asked(label), ["cnn"])[Key("cnn")] for label in (0, 1))
    for values in (benign, malignant):
        assert values.min() >= 0
        assert set(values.max(axis=(1, 2)).round(6)) <= {0.0, 1.0}
    assert not np.allclose(benign, malignant)


def test_what_never_speaks_for_the_class_is_0_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Transformer whose class token alone is read, and of which no earlier layer is known."""
    monkeypatch.setattr(TimmBackbone, "last_mixing", lambda _: None)
    branches = {"cnn": {"backbone": "alexnet"}, "transformer": {"backbone": "timm/vit_tiny_patch16_224"}}
    given = predictor(branches, "concat")
    result = maps(given, images(), asked(1), ["cnn", "transformer"])
    assert result[Key("cnn")].any()
    assert not result[Key("transformer")].any()


def test_the_network_is_left_as_it_was() -> None:
    given = cmaf()
    before = given.logits(images())
    maps(given, images(), asked(1), ["cnn", "transformer"])
    assert not given.model.training
    assert all(parameter.grad is None for parameter in given.model.parameters())
    np.testing.assert_array_equal(given.logits(images()), before)


# --- attention


def cross_attention(**params: Any) -> dict[str, Any]:
    return {"name": "cross_attention", "dim": 32, "heads": 4, **params}


FUSED = [
    {"name": "cmaf", "dim": 32, "heads": 4, "layers": 2},
    cross_attention(),
    cross_attention(direction="cnn->transformer"),
]


def without_questions(model: Model) -> None:
    """Make all attention uniform: every query is zero."""
    for module in model.modules():
        if isinstance(module, CrossAttention):
            torch.nn.init.zeros_(module.query.weight)
            torch.nn.init.zeros_(module.query.bias)


@pytest.mark.parametrize("fusion", FUSED, ids=lambda fusion: f"{fusion['name']} {fusion.get('direction', 'both')}")
def test_uniform_attention_is_1_everywhere(fusion: dict[str, Any]) -> None:
    given = predictor(TWO, fusion)
    before = attention_maps(given.model, *inputs(given))
    without_questions(given.model)
    after = attention_maps(given.model, *inputs(given))
    assert (
        set(before)
        == set(after)
        == ({("cnn", "transformer")} if "direction" in fusion else {("cnn", "transformer"), ("transformer", "cnn")})
    )
    for pair in after:
        assert before[pair].std() > 0
        torch.testing.assert_close(after[pair], torch.ones_like(after[pair]))


def test_of_three_branches_it_is_1_over_all_that_answer() -> None:
    given = predictor({**TWO, "small": {"backbone": "alexnet"}}, cross_attention())
    without_questions(given.model)
    result = attention_maps(given.model, *inputs(given))
    assert len(result) == 6
    for weights in result.values():
        torch.testing.assert_close(weights, torch.ones_like(weights))


def test_padding_that_asks_or_answers_leaves_uniform_attention_at_1() -> None:
    asks, answers = torch.tensor([5, 1, 3]), torch.tensor([2, 4, 1])  # tokens of two bags, padded to 5 and to 4
    asking, answering = torch.arange(5) < asks[:, None], torch.arange(4) < answers[:, None]
    rows = asking[:, None, :, None] / (6 + answers[:, None, None, None])  # over six positions and the second bag
    layer = {
        ("bag", "image"): rows.expand(3, 2, 5, 6),
        ("bag", "other"): rows * answering[:, None, None].expand(3, 2, 1, 4),
    }
    result = shares(layer, {"bag": asks, "image": torch.full((3,), 6), "other": answers})
    torch.testing.assert_close(result["bag", "image"], torch.ones(3, 6))
    torch.testing.assert_close(result["bag", "other"], answering.float())


def test_the_shares_of_two_branches_average_to_1() -> None:
    given = cmaf()
    for (_, answering), weights in attention_maps(given.model, *inputs(given)).items():
        assert weights.shape[1:] == positions(given.model, answering)
        torch.testing.assert_close(weights.mean(dim=(1, 2)), torch.ones(SIZE))


@pytest.mark.parametrize("fusion", ["concat", "mean_embedding", {"name": "late", "of": "probabilities"}])
def test_where_nobody_looks_there_is_no_map(fusion: Any) -> None:
    given = predictor(TWO, fusion)
    assert attention_maps(given.model, *inputs(given)) == {}


# --- which branches


def test_convolutional_branches_come_first() -> None:
    model = cmaf().model
    assert mapped_branches(model) == ["cnn"]
    assert mapped_branches(model, ["transformer"]) == ["transformer"]
    assert mapped_branches(predictor({"image": CCT}).model) == ["image"]


def test_one_position_is_no_map() -> None:
    model = predictor({"image": {"backbone": "timm/resnet18"}}).model
    assert mapped_branches(model) == []
    with pytest.raises(ConfigError, match=r"branch 'image'.*as one position; a larger image_size"):
        mapped_branches(model, ["image"])


# --- views, batches, order


@pytest.mark.parametrize("code", range(8))
def test_a_map_turns_back_to_where_its_image_was(code: int) -> None:
    values = torch.arange(2 * 3 * 3).view(2, 3, 3)
    turned = symmetry(values[..., None].expand(-1, -1, -1, 3), code)[..., 0]
    torch.testing.assert_close(undo_symmetry(turned, code), values)


@pytest.mark.parametrize("code", [1, 2, 6])
def test_with_all_views_averaged_a_turned_image_has_the_turned_map(code: int) -> None:
    given = cmaf(tta=True)
    turned = symmetry(torch.from_numpy(images()), code).numpy()
    plain, other = (maps(given, pixels, asked(1), ["cnn"]) for pixels in (images(), turned))
    for key in plain:
        np.testing.assert_allclose(undo_symmetry(torch.from_numpy(other[key]), code), plain[key], atol=1e-4)


@pytest.mark.parametrize("tta", [False, True])
def test_images_do_not_look_at_each_other(tta: bool) -> None:
    given, order = cmaf(tta=tta), np.array([3, 0, 4, 1, 2])
    together = maps(given, images(), asked(1), ["cnn", "transformer"])
    shuffled = maps(given, images()[order], asked(1), ["cnn", "transformer"])
    assert set(together) == {
        Key("cnn"),
        Key("transformer"),
        Key("cnn", "transformer"),
        Key("transformer", "cnn"),
    }
    for key, values in together.items():
        np.testing.assert_allclose(shuffled[key], values[order], atol=1e-5)
    for row in range(SIZE):
        alone = maps(given, images()[row : row + 1], asked(1)[:1], ["cnn", "transformer"])
        for key, values in alone.items():
            np.testing.assert_allclose(values[0], together[key][row], atol=1e-5)


def test_more_images_than_fit_in_a_batch() -> None:
    given = cmaf()
    many = np.concatenate([images()] * 8)
    result = maps(given, many, np.ones(len(many), np.int64), ["cnn"])
    np.testing.assert_allclose(result[Key("cnn")][-SIZE:], result[Key("cnn")][:SIZE], atol=1e-5)
