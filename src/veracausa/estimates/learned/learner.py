"""`Learner`: how gates are learned, composed of parts; published ways are presets.

**gates** (`gates`) × **hold** (`holds`: what keeps most of them closed) × **loss** (`losses`) × **aim**:

* "sufficient": what is open must do the work, all else ablated;
* "cause": only what is open is ablated, all else is kept, and the behaviour must go;
* "both": one or the other, by a coin in every step;
* "complete" (DiscoGP, 2407.03779): sufficient, and beside it `completeness` times the cause's loss, in every step.

`adversary`: in every step, so many steps of sign ascent choose how open the closed gates are, r ≤ `most`, and the loss
is taken there: weights g + (1 − g) · r, r_t = clip(r_{t−1} + ½ / √t · sign, 0, most), from 0. So what is open must do
the work whatever the rest carries.

**Sets and orders.** Gates that are held to one size, or have one price a unit, say which units are in, and not which of
them matters most: between open and closed a hard-concrete gate has no best place (E g and P(g > 0) are means of shifted
sigmoids, and (E g)′ / P(g > 0)′ rises with the score), so all that are in end alike, and so do all that are out. Where
the metric is linear in the gates, what stays open are the units with the largest effects. Sizes that are drawn anew
(top-k, matryoshka) and nats of noise (bottleneck), whose price grows with what is let through, give the order of the
effects. Scores stop at `top`, since above it hardly a draw closes the gate at all: nothing would say any more what the
unit does, and what closes next would be chance.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from veracausa.choices import Ablation, BudgetSizes, GateHold, GateName, LearnedBy, MaskAim, MaskLoss
from veracausa.errors import MethodError
from veracausa.estimates.learned.gates import GATES
from veracausa.estimates.learned.losses import MASK_LOSSES
from veracausa.suggestions import not_known
from veracausa.typed import require_fields

#: See `Learner.top`.
TOP = 4.0
#: Name → in words.
HOLDS = {
    "share": "a multiplier on a log scale brings the open share to the wanted one",
    "lagrangian": "two multipliers, by ascent, on the distance to the wanted share and on its square",
    "price": "a price for every open unit",
    "budget": "gates compete for k places; k is drawn for every step",
}
SIZES = {
    "fixed": "the wanted number",
    "log": "log-uniform, from the smallest share to all",
    "mixed": "half uniform, half log-uniform",
}
AIMS = {
    "sufficient": "what is open does the work",
    "cause": "what is open, ablated alone, takes the behaviour away",
    "both": "one or the other, by a coin",
    "complete": "sufficient, and without it nothing is left",
}


@dataclass(frozen=True)
class Learner:
    """How gates are learned; see the module.

    `temperature`: of the gates (None: their own). `begin`: all scores at the start, `spread`: their standard deviation
    where a ranking is given to start from. `sizes`, `smallest`: of a budget. `price`, `last_price`, `peak`: λ of a
    price, at the first and the last step, and at its highest (None: it goes from one to the other). `warm_up`: the
    share of the steps over which the wanted share falls, or the price climbs. `rise`: rate of the Lagrangian's λ.
    `each`: every pair of a step has gates of its own, drawn apart (edges: else one draw for all). `nodes`: of edges, a
    gate on every writer beside, which multiplies those of its edges. `ablation`: what closed gates let through;
    "optimal": constants, learned along with the gates (edges only). `bound`: scores stay within ±bound; `highest`: nor
    do they rise above this, or where they begin (None: `top`).

    >>> how = vc.estimates.Learner(gates="sigmoid", hold="budget", sizes="mixed", loss="bounded", aim="both")
    >>> vc.circuits.learn(lm, task, how=how)
    """

    gates: GateName = "hard-concrete"
    hold: GateHold = "share"
    loss: MaskLoss = "kl"
    aim: MaskAim = "sufficient"
    sizes: BudgetSizes = "fixed"
    smallest: float = 0.001
    temperature: float | None = None
    begin: float = 2.0
    spread: float = 1.0
    bound: float = 10.0
    highest: float | None = None
    steps: int = 300
    lr: float = 0.3
    warm_up: float = 0.5
    rise: float = 0.8
    price: float = 1.0
    last_price: float = 1.0
    peak: float | None = None
    completeness: float = 1.0
    adversary: int = 0
    most: float = 1.0
    each: bool = False
    nodes: bool = False
    ablation: Ablation = "counterfactual"

    def __post_init__(self) -> None:
        require_fields(self, globals())
        known: dict[str, Iterable[str]] = {
            "gates": GATES,
            "hold": HOLDS,
            "loss": MASK_LOSSES,
            "aim": AIMS,
            "sizes": SIZES,
        }
        for name, table in known.items():
            if getattr(self, name) not in table:
                raise MethodError(not_known(name, getattr(self, name), table))
        for name in ("steps", "lr", "price", "last_price", "bound", "spread", "rise"):
            if not 0 < getattr(self, name) < float("inf"):
                raise MethodError(f"{name}={getattr(self, name)}: it must be positive and finite.")
        shares = {"smallest": self.smallest, "warm_up": self.warm_up, "most": self.most}
        for name, value in shares.items():
            if not 0 < value <= 1 or (name == "smallest" and value == 1):
                raise MethodError(f"{name}={value}: it is a share, over 0 and at most 1 (smallest: under 1).")
        if self.peak is not None and (self.hold != "price" or self.peak <= 0):
            raise MethodError(f"peak={self.peak}, hold={self.hold!r}: a peak is that of a price, and positive.")
        self._require_meaning()

    def _require_meaning(self) -> None:
        """MethodError for parts that mean nothing together."""
        if self.aim != "sufficient" and self.loss == "kl":
            raise MethodError(
                f"aim={self.aim!r} with loss='kl': away from the clean output there is no bound, and nothing to reach. "
                "Take loss='bounded', 'margin', 'metric' or 'answers'."
            )
        if self.nodes and self.hold == "budget":
            raise MethodError("nodes=True with hold='budget': products of two gates do not compete for places.")
        if self.gates == "noise" and self.hold != "price":
            raise MethodError(
                f"gates='noise', hold={self.hold!r}: what noise gates let through is counted in nats, which have no "
                "share and no places. Take hold='price'."
            )
        if self.adversary < 0 or (self.adversary and self.aim != "sufficient"):
            raise MethodError(
                f"adversary={self.adversary}, aim={self.aim!r}: an adversary sets what is closed, so the aim is "
                "'sufficient', and it has 0 steps or more."
            )
        if self.temperature is not None and not 0 < self.temperature <= (2 if self.gates == "uniform" else 1e6):
            raise MethodError(
                f"temperature={self.temperature}: it must be positive, and for uniform gates at most 2, where both "
                "ends keep a share."
            )

    @property
    def t(self) -> float:
        """The gates' temperature."""
        return GATES[self.gates].temperature if self.temperature is None else self.temperature

    @property
    def top(self) -> float:
        """The highest score: of hard-concrete gates that do not compete for places 4, where 1 draw in 12 is under 1."""
        if self.highest is not None:
            return self.highest
        return min(self.bound, TOP) if self.gates == "hard-concrete" and self.hold != "budget" else self.bound

    @property
    def ranks(self) -> bool:
        """Whether scores are ranks (else probabilities that gates are open)."""
        return self.hold == "budget"

    @property
    def slopes(self) -> int:
        """Gradients a step takes."""
        return 1 + self.adversary + (self.aim == "complete")


#: Published ways, and ours, by name.
LEARNERS = {
    "share": Learner(),
    "top-k": Learner(hold="budget", sizes="log"),
    "matryoshka": Learner(gates="sigmoid", hold="budget", sizes="mixed", loss="bounded", aim="both", begin=0.0, lr=0.1),
    "adversarial": Learner(hold="budget", adversary=2),
    "edge-pruning": Learner(
        hold="lagrangian", nodes=True, begin=10.0, bound=1e6, highest=1e6, steps=3000, lr=0.8, warm_up=5 / 6
    ),
    "ugs": Learner(gates="uniform", hold="price", begin=1.0, steps=1000, lr=0.1, ablation="optimal", each=True),
    "discogp": Learner(
        gates="straight-through",
        hold="price",
        loss="answers",
        aim="complete",
        begin=1.0,
        steps=1250,
        lr=0.1,
        warm_up=0.2,
        peak=100.0,
        last_price=0.01,
        ablation="zero",
    ),
    "bottleneck": Learner(gates="noise", hold="price", price=0.01, last_price=0.01, lr=0.1),
    "node-pruning": Learner(hold="lagrangian", each=True),
    "subnetwork-probing": Learner(hold="price", each=True),
}


def learner_of(how: LearnedBy | Learner, **given: object) -> Learner:
    """A preset by its name, or what is given, with some parts replaced by those that are not None.

    Raises:
        MethodError: an unknown name.
    """
    if isinstance(how, str) and how not in LEARNERS:
        raise MethodError(not_known("how", how, LEARNERS))
    made = LEARNERS[how] if isinstance(how, str) else how
    found = replace(made, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    if given.get("smallest") is not None and (found.hold != "budget" or found.sizes == "fixed"):
        raise MethodError("smallest= is of learners that draw sizes (top-k, matryoshka); this one has one size.")
    return found
