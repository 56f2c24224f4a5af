"""Sparse feature circuits from their definitions, by autograd on the plain Hugging Face model with hooks.

    node   ḡ_u · (u′ − u), ḡ_u the gradient at u, or its mean at α = 0, 1/N, … as the whole site goes to the other run's
    edge   ḡ_d · ∂d/∂u · (u′ − u), every other dictionary's site held: no gradient passes there
"""

from __future__ import annotations

import torch
from naive_features import both, run


class Circuit:
    """Scores of one pair. `laid`: name of a dictionary → its plain form."""

    def __init__(self, model, family, pair, laid, nodes=0, zero=False):
        self.model, self.family, self.pair, self.laid = model, family, pair, laid
        self.mean, self.delta, self.values = {}, {}, {}
        for name, one in laid.items():
            x, self.values[name] = both(model, family, pair.clean, one)
            own = one.parts(x, self.values[name])
            there = one.parts(*both(model, family, pair.corrupted, one))
            self.delta[name] = {part: (0 if zero else there[part]) - own[part] for part in own}
            whole, grads = sum(self.delta[name].values()), []
            for alpha in [k / nodes for k in range(nodes)] if nodes else [0.0]:
                extra = (alpha * whole).detach().requires_grad_()
                logits = run(model, family, pair.clean, [(one.writes, lambda x, extra=extra: x + extra)])
                grads += torch.autograd.grad(logits[pair.correct] - logits[pair.incorrect], extra)
            self.mean[name] = sum(grads) / len(grads)

    def node(self, name, part, position=None):
        """The score of a part, summed over positions or at one."""
        found = (self.mean[name] * self.delta[name][part]).sum(-1)
        return float(found.sum() if position is None else found[position])

    def run_edge(self, up, a, down, b, at=(None, None)):
        """The same with what b changes by in a run in which a alone moves, every other dictionary's site as it was."""
        one, other, change = self.laid[up], self.laid[down], self.delta[up][a]
        if at[0] is not None:
            change = torch.zeros_like(change).index_copy(0, torch.tensor([at[0]]), change[at[0]][None])
        held = [
            (each.writes, lambda x, name=name: self.values[name])
            for name, each in self.laid.items()
            if name not in (up, down)
        ]
        found = []
        for moved in (0 * change, change):
            seen = {}
            keep = [
                (site, lambda x, n=n, seen=seen: seen.setdefault(n, x))
                for n, site in enumerate((other.reads, other.writes))
            ]
            run(self.model, self.family, self.pair.clean, [*held, (one.writes, lambda x, m=moved: x + m), *keep])
            found.append(other.parts(seen[0], seen[1])[b])
        written = (self.mean[down] * (found[1] - found[0])).sum(-1).detach()
        return float(written.sum() if at[1] is None else written[at[1]])

    def edge(self, up, a, down, b, at=(None, None)):
        """The score of an edge between parts a and b of two dictionaries; `at`: their positions."""
        one, other, seen = self.laid[up], self.laid[down], {}
        extra = torch.zeros_like(self.delta[up][a]).requires_grad_()

        def keep(site):
            return lambda x: seen.setdefault(site, x)

        held = [(each.writes, lambda x: x.detach()) for name, each in self.laid.items() if name not in (up, down)]
        run(self.model, self.family, self.pair.clean, [
            *held, (one.writes, lambda x: x + extra), (other.reads, keep("x")), (other.writes, keep("y"))
        ])  # fmt: skip
        written = (self.mean[down] * other.parts(seen["x"], seen["y"])[b]).sum(-1)
        target = written.sum() if at[1] is None else written[at[1]]
        if not target.requires_grad:  # all ways there are held
            return 0.0
        (slope,) = torch.autograd.grad(target, extra, allow_unused=True, materialize_grads=True)
        found = (slope * self.delta[up][a]).sum(-1)
        return float(found.sum() if at[0] is None else found[at[0]])
