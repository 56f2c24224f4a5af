"""What a backward rule is: plain numbers, nothing that runs."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Rule:
    """What a backward pass does otherwise; the defaults change nothing.

    `temperature`: of the softmax in the backward pass. `query_key`, `value`, `product`: factors of gradients into
    queries and keys, values, and both branches of a gated MLP. `freeze_norms`, `linear_activations`: see `rules`.
    """

    temperature: float = 1.0
    query_key: float = 1.0
    value: float = 1.0
    product: float = 1.0
    freeze_norms: bool = False
    linear_activations: bool = False

    @property
    def inside_mlps(self) -> bool:
        """Whether it changes something between the two linear maps of an MLP."""
        return self.product != 1 or self.linear_activations

    @property
    def plain(self) -> bool:
        """Whether the model's own backward pass is meant."""
        return all(getattr(self, part.name) == part.default for part in fields(self))


PLAIN = Rule()
#: Rules of such parts by name.
RULES: dict[str, Rule] = {
    "plain": PLAIN,
    "gim": Rule(temperature=2.0, query_key=0.25, value=0.5, product=0.5, freeze_norms=True),
    "relp": Rule(product=0.5, freeze_norms=True, linear_activations=True),
}
