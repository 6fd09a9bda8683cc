"""Where a model looks: Grad-CAM of a branch's positions, and who looks at what in a fusion's attention."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from histotune.data.augment import symmetry, undo_symmetry
from histotune.data.batches import images_as_cases
from histotune.data.modalities import tensor
from histotune.errors import ConfigError
from histotune.models.fusions import AttentionMaps, unpadded
from histotune.models.network import Inputs, Model
from histotune.models.predictor import SYMMETRIES, Predictor, inputs_of

_BATCH = 32  # images whose graph is kept for a gradient
Tensors = Mapping[str, Tensor]


class Key(NamedTuple):
    """What a map shows: the Grad-CAM of `branch`, or where on it the branch `asking` looks ("": Grad-CAM)."""

    branch: str
    asking: str = ""


def positions(model: Model, branch: str) -> tuple[int, int] | None:
    """Return the rows and columns of a branch's tokens; None where there is one position or nobody knows which."""
    grid: tuple[int, int] | None = model.branches[branch].grid  # type: ignore[assignment]
    return grid if grid and grid[0] * grid[1] > 1 else None


def mapped_branches(model: Model, wanted: Sequence[str] = ()) -> list[str]:
    """Return which branches get a Grad-CAM: the wanted ones that the model has, else the convolutional ones, else all.

    Raises:
        ConfigError: a wanted branch has no map of positions.
    """
    for name in wanted:
        if name in model.branches and not positions(model, name):
            raise ConfigError(f"no map can be drawn of {without_positions(model, name)}")
    there = [name for name in model.branches if positions(model, name)]
    if wanted:
        return [name for name in there if name in wanted]
    return [name for name in there if model.branches[name].convolutional] or there


def without_positions(model: Model, branch: str) -> str:
    """Say why a branch has no map."""
    if model.branches[branch].grid is None:
        return f"branch {branch!r}: its backbone does not say where on the image its tokens lie"
    return f"branch {branch!r}: its backbone sees the whole image as one position; a larger image_size would give more"


def why_empty(model: Model, branch: str) -> str:
    """Say why a Grad-CAM is 0 everywhere."""
    backbone = model.branches[branch]
    if getattr(backbone, "prefix", 0) and backbone.last_mixing() is None:  # type: ignore[operator]
        return "its class token alone is read, and in which layer the positions reach it is not known here"
    return "no position speaks for the class"


def grad_cam(model: Model, inputs: Inputs, present: Tensors, asked: Tensor, branches: Sequence[str]) -> Tensors:
    """Return {branch: Grad-CAM [B, h, w] >= 0, without a scale} for the classes `asked`, int64 [B].

    ReLU(sum_k alpha_k A_k) with A the branch's tokens as the fusion gets them and alpha_k the mean over positions of
    the gradient of the asked class's logit (Selvaraju et al., 2017). Where a class token alone is read, that gradient
    is 0 by construction, and A are the positions before the last attention (`Backbone.last_mixing`), as is usual for
    vision transformers. The model must be in evaluation mode.
    """
    if not branches:
        return {}
    with torch.enable_grad(), _mixed(model, branches) as mixed:
        leaves = {name: tensor(values).detach().requires_grad_() for name, values in inputs.items()}
        outputs, masks = model.outputs(leaves, present)
        logits = model.objective.scores(model.read(outputs, masks))
        tokens = [outputs[name].tokens for name in branches]
        chosen = logits.gather(1, asked[:, None]).sum()
        every = [*tokens, *mixed.values()]
        gradients = torch.autograd.grad(chosen, every, allow_unused=True, materialize_grads=True)
    earlier = dict(zip(mixed, gradients[len(tokens) :], strict=True))
    maps = {}
    for name, values, gradient in zip(branches, tokens, gradients, strict=False):
        grid = positions(model, name)
        assert grid is not None
        if name in mixed and not gradient.any():  # no position reaches the logit from here on
            before = mixed[name].shape[1] - values.shape[1]
            values, gradient = mixed[name][:, before:], earlier[name][:, before:]
        alpha = gradient.mean(dim=1, keepdim=True)  # [B, 1, D]
        maps[name] = (alpha * values.detach()).sum(dim=2).relu().unflatten(1, grid)
    return maps


@contextlib.contextmanager
def _mixed(model: Model, branches: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Give what `Backbone.last_mixing` returns in a forward pass, [B, preceding + T, D], by branch."""
    result: dict[str, Tensor] = {}
    hooks = []

    def keep(name: str, count: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() == 3 and output.shape[1] == count and output.requires_grad:
                result[name] = output

        return hook

    for name in branches:
        grid, layer = positions(model, name), model.branches[name].last_mixing()  # type: ignore[operator]
        if layer is not None and grid is not None:
            module, preceding = layer
            hooks.append(module.register_forward_hook(keep(name, preceding + grid[0] * grid[1])))
    try:
        yield result
    finally:
        for handle in hooks:
            handle.remove()


def attention_maps(model: Model, inputs: Inputs, present: Tensors) -> dict[tuple[str, str], Tensor]:
    """Return `token_shares` of answering branches with positions, as maps [B, h, w]."""
    result = token_shares(model, inputs, present)
    grids = {pair: positions(model, pair[1]) for pair in result}
    return {pair: weights.unflatten(1, grid) for pair, weights in result.items() if (grid := grids[pair]) is not None}


@torch.no_grad()
def token_shares(model: Model, inputs: Inputs, present: Tensors) -> dict[tuple[str, str], Tensor]:
    """Return {(asking, answering): [B, T]}: how often a token is looked at, in multiples of its equal share.

    The mean over layers, heads and asking tokens; 1 everywhere is attention that makes no difference. Nothing where
    the fusion has no attention.
    """
    outputs, masks = model.outputs(inputs, present)
    layers = model.fusion.attention(outputs, masks)
    speaks = {name: unpadded(output, masks[name]).sum(dim=1) for name, output in outputs.items()}
    result: dict[tuple[str, str], list[Tensor]] = {}
    for layer in layers:
        for pair, weights in shares(layer, speaks).items():
            result.setdefault(pair, []).append(weights)
    return {pair: torch.stack(weights).mean(dim=0) for pair, weights in result.items()}


def shares(layer: AttentionMaps, speaks: Tensors) -> dict[tuple[str, str], Tensor]:
    """Map weights [B, heads, Tq, Tk] to [B, Tk] in multiples of what a token gets when all answers are equal.

    Args:
        layer: weights.
        speaks: {branch: number of tokens that are no padding [B]}.
    """
    answers: dict[str, Tensor] = {}
    for asking, answering in layer:
        answers[asking] = answers.get(asking, 0) + speaks[answering]
    return {
        (asking, answering): weights.mean(dim=1).sum(dim=1) * (answers[asking] / speaks[asking])[:, None]
        for (asking, answering), weights in layer.items()
    }


def maps(predictor: Predictor, images: np.ndarray, asked: np.ndarray, branches: Sequence[str]) -> dict[Key, np.ndarray]:
    """Return all maps of a trained model over uint8 images [n, S, S, 3], float32 [n, h, w] each.

    They are of the model as it predicts: with `tta` the mean over its eight views, turned back. A Grad-CAM is divided
    by its largest value in the image; it stays 0 where nothing speaks for the class.

    Args:
        predictor: the model.
        images: of the size that it reads.
        asked: the class of each image that Grad-CAM asks for, int64 [n].
        branches: which get a Grad-CAM.
    """
    parts = []
    for start in range(0, len(images), _BATCH):
        rows = slice(start, start + _BATCH)
        batch = torch.from_numpy(images[rows].copy()).to(predictor.device)
        parts.append(_of_batch(predictor, batch, torch.from_numpy(asked[rows]).to(predictor.device), branches))
    return {key: torch.cat([part[key] for part in parts]).cpu().numpy() for key in parts[0]}


def _of_batch(predictor: Predictor, images: Tensor, asked: Tensor, branches: Sequence[str]) -> dict[Key, Tensor]:
    views = range(SYMMETRIES if predictor.config.tta else 1)
    result: dict[Key, list[Tensor]] = {}
    for code in views:
        seen = images_as_cases(symmetry(images, code), predictor.model.images)
        inputs, present = inputs_of(predictor.model, predictor.preparations, seen)
        cams = grad_cam(predictor.model, inputs, present, asked, branches)
        looks = attention_maps(predictor.model, inputs, present)
        every = {Key(name): cam for name, cam in cams.items()}
        every |= {Key(answering, asking): weights for (asking, answering), weights in looks.items()}
        for key, values in every.items():
            result.setdefault(key, []).append(undo_symmetry(values, code))
    means = {key: torch.stack(values).mean(dim=0) for key, values in result.items()}
    return {key: values if key.asking else _relative(values) for key, values in means.items()}


def _relative(cam: Tensor) -> Tensor:
    """Divide maps [B, h, w] >= 0 by their largest value; what is 0 everywhere stays so."""
    largest = cam.amax(dim=(1, 2), keepdim=True)
    return torch.where(largest > 0, cam / largest, torch.zeros_like(cam))
