"""Every member has one vote."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from histotune.ensembles.strategies._base import ENSEMBLES, Ensemble, member_mean, normalised

TIE_BREAK = 1e-6  # far below one vote of any sensible number of members


class Vote(Ensemble):
    """p_c proportional to (share of members whose top class is c) + 1e-6 * (mean probability of c).

    The second term breaks ties by mean probability (then by lowest class index), and gives AUROC an order among the
    few levels that a share of M votes can take.
    """

    def combine(self, probabilities: Tensor, present: Tensor) -> Tensor:
        """Map [M, N, C] to [N, C]."""
        votes = functional.one_hot(probabilities.argmax(dim=2), probabilities.shape[2]).to(probabilities.dtype)
        return normalised(member_mean(votes, present) + TIE_BREAK * member_mean(probabilities, present))


@ENSEMBLES.register("vote")
def vote() -> Vote:
    """Share of the members' votes; ties go to the class of highest mean probability."""
    return Vote()
