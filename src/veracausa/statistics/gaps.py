"""What the gap between two runs says about the shares that are taken of it, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from veracausa.statistics.ratios import unseparated

if TYPE_CHECKING:
    from jaxtyping import Float


def cautions(
    clean: Float[Tensor, " examples"], corrupted: Float[Tensor, " examples"], *, compares: bool
) -> tuple[str, ...]:
    """Sentences to be told with every headline about this gap; none where the behaviour is there.

    * the model prefers the wrong answer on most pairs: metric < 0, where it `compares` right with wrong answers;
    * the gap is inverted: its mean is negative;
    * its mean is not told apart from 0 (`ratios.unseparated`);
    * pairs whose own gap is exactly 0, as where their prompts differ only where the metric never looks.

    >>> cautions(torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 1.0]), compares=True)[0]
    'the model prefers the wrong answer on 2 of 2 pairs'
    """
    gap, said = clean - corrupted, []
    n = len(gap)
    pairs = f"{n:,} pair{'' if n == 1 else 's'}"
    wrong, inverted = int((clean < 0).sum()), int((gap < 0).sum())
    if compares and 2 * wrong > n:
        said.append(f"the model prefers the wrong answer on {wrong:,} of {pairs}")
    if float(gap.mean()) < 0:
        said.append(
            f"the gap is inverted: the mean metric is higher on the corrupted prompts ({float(corrupted.mean()):+.2f}) "
            f"than on the clean ones ({float(clean.mean()):+.2f}), on {inverted:,} of {pairs}"
        )
    if why := unseparated(gap):
        said.append(why)
    if still := int((gap == 0).sum()):
        said.append(
            f"the gap of {still:,} of {pairs} is exactly 0: what differs there does not change the metric, and a share "
            "of such a pair's own gap is not defined"
        )
    return tuple(said)
