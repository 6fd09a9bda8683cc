"""An upper bound of the mutual information between two branches."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.func import functional_call

from histotune.core.parameters import Interval
from histotune.models.redundancies._base import REDUNDANCIES, WEIGHT, Redundancy


class Club(Redundancy):
    """E log q(y|x) - E E log q(y|x'), in nats: CLUB, whose q is a Gaussian that a network fits as the branches train.

    The embeddings see the bound with q held still; q sees its own likelihood with the embeddings held still, and that
    part adds gradients but nothing to the value. x is the branch whose name comes first.
    """

    least_cases = 2

    def __init__(self, dims: Mapping[str, int], weight: float, hidden: int) -> None:
        super().__init__("club", dims, weight)
        self.guesses = nn.ModuleDict(
            {
                f"{one}-{other}": nn.Sequential(
                    nn.Linear(dims[one], hidden), nn.ReLU(), nn.Linear(hidden, 2 * dims[other])
                )
                for one, other in self.pairs
            }
        )

    def between(self, embeddings: Mapping[str, Tensor], pair: tuple[str, str], there: Tensor) -> Tensor:
        """Return the bound over the cases that are there; it may be below 0 while q is a bad guess."""
        given, target = (embeddings[name] for name in pair)
        guess = self.guesses["-".join(pair)]
        still = {name: p.detach() for name, p in guess.named_parameters()}
        cases = there.sum().clamp_min(1)
        mean, log_variance = _gaussian(functional_call(guess, still, (given,)))
        average = (there[:, None] * target).sum(dim=0) / cases
        spread = (there[:, None] * (target - average).square()).sum(dim=0) / cases  # [D]
        own = (target - mean).square()
        others = (average - mean).square() + spread  # mean over all targets of their squared distance, [B, D]
        bound = (there[:, None] * (others - own) * (-log_variance).exp()).sum() / (2 * cases)
        mean, log_variance = _gaussian(guess(given.detach()))
        surprise = (target.detach() - mean).square() * (-log_variance).exp() + log_variance
        fit = (there[:, None] * surprise).sum() / (2 * cases)
        return bound + fit - fit.detach()


def _gaussian(output: Tensor) -> tuple[Tensor, Tensor]:
    """Split [B, 2 D] into means and logarithms of variances, the latter within [-1, 1] as the authors bound them."""
    mean, log_variance = output.chunk(2, dim=1)
    return mean, log_variance.tanh()


@REDUNDANCIES.register(
    "club", ranges={"weight": WEIGHT, "hidden": Interval(1, 4096, whole=True)}, source="Cheng et al., 2020"
)
def club(dims: Mapping[str, int], *, weight: float = 0.1, hidden: int = 64) -> Club:
    """CLUB: an upper bound of the mutual information, nats, by a network of `hidden` units that is trained along."""
    return Club(dims, weight, hidden)
