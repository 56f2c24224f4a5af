"""`Attack`: how far an adversary moves f of a circuit, by what it may do to the parts outside; see `attacks.attacking`.

    f(r) = (mean M(r) − mean M(∅)) / (mean M(full) − mean M(∅))     the circuit whole, its others with weights r

The *radius* is the smallest budget at which the strongest attempt has f outside of [½, 1½]: how many others must be
restored, or how large their weights may be. It is known up to a bracket: the largest budget tried that leaves f inside,
the smallest that does not. An attempt is a fact about these pairs; that none was found is no proof that there is none.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from veracausa.circuits.attacks.budgets import BUDGETS
from veracausa.circuits.runs.run_circuits import Ran
from veracausa.cost import Cost
from veracausa.doors import through
from veracausa.errors import MethodError
from veracausa.statistics.bootstrap import too_few, with_replacement
from veracausa.statistics.gaps import cautions
from veracausa.statistics.ratios import ratios
from veracausa.storage.files import write_tensors
from veracausa.tasks.measurement import Measurement
from veracausa.tasks.metrics import compares_answers
from veracausa.words import counted, plain, sentence, share, whole

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from jaxtyping import Float, Int

#: f in here is still the circuit's behaviour.
INSIDE = (0.5, 1.5)
#: How attempts were chosen that no adversary chose.
RANDOM = "random"
#: Draws of pairs for the interval of a radius, and its ends.
_DRAWS, _ENDS = 1000, (0.05, 0.95)


@dataclass(frozen=True)
class Attempt:
    """Weights r that were run.

    `circuit`: its number. `budget`: "none" (r = 0), "sparse", "bounded" or "free"; `amount`: how many others were
    restored, the largest weight, how many steps. `by`: how r was chosen. `way`: whether f was pushed "down" or "up"
    ("": neither).
    `each`: whether every pair has weights of its own.
    """

    circuit: int
    budget: str = "none"
    amount: float = 0
    by: str = ""
    way: str = ""
    each: bool = False


class Radius(NamedTuple):
    """The largest budget tried that leaves f inside, and the smallest that does not (None: none was found).

    `interval`: 90%, of the latter over draws of pairs with replacement, attempts held fixed (None: fewer than 16 pairs;
    an end of infinity: not reached in that draw).
    """

    inside: float
    outside: float | None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Attack(Ran):
    """What an adversary made of circuits' others; see the module.

    `circuits`: their names; `kept`, `others`: how many `parts` ("edges" or "nodes") each keeps and leaves out.
    `metric`: M of every attempt, pair by pair; `held`: of the same weights on pairs that the adversary did not see (no
    columns: there are none; NaN: every attacked pair had weights of its own). `measured`, `held_measured`: M of the
    bare clean run and of the run without edges.

    >>> found = vc.circuits.adversary(lm, task, circuit)
    >>> found.radius("sparse").outside, found.table()
    """

    circuits: tuple[str, ...]
    parts: str
    kept: tuple[int, ...]
    others: tuple[int, ...]
    attempts: tuple[Attempt, ...]
    metric: Float[Tensor, "attempts examples"]
    held: Float[Tensor, "attempts others"]
    measured: Measurement
    held_measured: Measurement
    cost: Cost
    model: dict[str, str]
    task: dict[str, Any]
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()

    @cached_property
    def f(self) -> Float[Tensor, " attempts"]:
        """f of every attempt, a ratio of means over pairs, as `vc.faithfulness` gives it."""
        return torch.stack([self.measured.f_of(one) for one in self.metric]).double()

    @cached_property
    def stderr(self) -> Float[Tensor, " attempts"]:
        """Standard errors of `f` over pairs, to first order, the weights held fixed; NaN where not known."""
        return ratios((self.metric - self.measured.corrupted).T, self.measured.gap)[1]

    @cached_property
    def carried(self) -> tuple[Float[Tensor, " attempts"], Float[Tensor, " attempts"]]:
        """f of the same weights on the held-out pairs, and its standard errors; NaN where they were not run."""
        if not self.held.shape[1]:
            return torch.full_like(self.f, float("nan")), torch.full_like(self.f, float("nan"))
        above = (self.held - self.held_measured.corrupted).double()
        found, error, _ = ratios(above.nan_to_num().T, self.held_measured.gap)
        known = ~above.isnan().any(1)
        return torch.where(known, found, float("nan")), torch.where(known, error, float("nan"))

    def among(self, budget: str, circuit: int = 0, *, each: bool = False) -> Int[np.ndarray, " attempts"]:
        """Which attempts an adversary chose with this budget, the circuit's own run first.

        With `each` those by weights for all pairs are among them: every pair may have those, too.

        Raises:
            MethodError: a budget or a circuit that was not attacked.
        """
        at = [
            i
            for i, one in enumerate(self.attempts)
            if one.circuit == circuit
            and one.by != RANDOM
            and (one.budget == "none" or (one.budget == budget and each >= one.each))
        ]
        if len(at) < 2 or not any(self.attempts[i].each == each for i in at[1:]):
            raise MethodError(
                f"There is no attack with the budget {budget!r} on circuit {circuit}"
                f"{' with weights for each pair' if each else ''}. Attacked: "
                + ", ".join(sorted({f"{one.budget} on {one.circuit}" for one in self.attempts if one.budget != "none"}))
            )
        return np.array(at)

    def strongest(self, budget: str, amount: float | None = None, circuit: int = 0, *, each: bool = False) -> int:
        """The attempt with at most this amount (None: any) whose f is farthest from 1."""
        within = self._within(budget, amount, circuit, each)
        return int(within[np.argmax(np.abs(self.f.numpy()[within] - 1))])

    def ends(self, budget: str, amount: float, circuit: int = 0, *, each: bool = False) -> tuple[int, int]:
        """The attempts with at most this amount whose f is lowest, and highest; the circuit's own run is among them."""
        within = self._within(budget, amount, circuit, each)
        f = self.f.numpy()[within]
        return int(within[f.argmin()]), int(within[f.argmax()])

    def _within(self, budget: str, amount: float | None, circuit: int, each: bool) -> Int[np.ndarray, " attempts"]:
        """The attempts with at most this amount."""
        at = self.among(budget, circuit, each=each)
        return at[[amount is None or self.attempts[i].amount <= amount for i in at]]

    def moved(self, circuit: int = 0) -> float:
        """The most that any weights, chosen or random, changed f of the circuit's own run: 0 if the rest is idle."""
        others = [i for i, one in enumerate(self.attempts) if one.circuit == circuit and one.budget != "none"]
        own = self.f[self.attempts.index(Attempt(circuit))]
        return float((self.f[others] - own).abs().max()) if others else 0.0

    def radius(self, budget: str = "sparse", circuit: int = 0, *, each: bool = False) -> Radius:
        """The smallest amount at which f leaves [½, 1½], bracketed.

        Raises:
            MethodError: see `among`.

        >>> found.radius("bounded").outside
        """
        at = self.among(budget, circuit, each=each)
        amounts = np.array([self.attempts[i].amount for i in at])
        first = _first_outside(self.f.numpy()[None, at], amounts)[0]
        below = amounts[amounts < first]
        interval = None if too_few(len(self.measured.gap)) else self._interval(at, amounts)
        return Radius(float(below.max(initial=0)), None if np.isinf(first) else float(first), interval)

    def _interval(self, at: np.ndarray, amounts: np.ndarray) -> tuple[float, float]:
        """Ends of the radius over draws of pairs."""
        drawn = with_replacement(len(self.measured.gap), len(self.measured.gap), _DRAWS, int(self.settings["seed"]))
        above = (self.metric[at] - self.measured.corrupted).double().numpy()
        f = drawn @ above.T / (drawn @ self.measured.gap.double().numpy())[:, None]
        ends = np.quantile(_first_outside(f, amounts), _ENDS, method="closest_observation")
        return float(ends[0]), float(ends[1])

    def random(self, budget: str, amount: float, circuit: int = 0) -> Float[np.ndarray, " draws"]:
        """f of random weights with this budget: restored at random, or uniform up to the largest weight."""
        f = self.f.tolist()
        wanted = (circuit, budget, 1.0 if budget == "free" else amount, RANDOM)
        return np.array([f[i] for i, one in enumerate(self.attempts) if (*_key(one), one.by) == wanted])

    def table(self) -> pd.DataFrame:
        """One row per circuit, kind of weights and amount: f of the strongest attempt with at most that amount.

        `f`: farthest from 1, with its standard error; `lowest`, `highest`: of all; `by`, `way`: how the strongest was
        chosen; `random`: mean f of random weights with this amount; `held_out`: f of the strongest on held-out pairs.
        """
        import pandas as pd

        return pd.DataFrame([self._row(*of) for of in self._questions()])

    def _questions(self) -> list[tuple[int, str, bool, float]]:
        """(circuit, budget, each, amount) of every row of the table."""
        asked = {
            (one.circuit, ("none", *BUDGETS).index(one.budget), one.each, one.amount)
            for one in self.attempts
            if one.by != RANDOM
        }
        return [(circuit, ("none", *BUDGETS)[budget], each, amount) for circuit, budget, each, amount in sorted(asked)]

    def _row(self, circuit: int, budget: str, each: bool, amount: float) -> dict[str, Any]:
        best = self.attempts.index(Attempt(circuit))
        low, high = best, best
        if budget != "none":
            best = self.strongest(budget, amount, circuit, each=each)
            low, high = self.ends(budget, amount, circuit, each=each)
        drawn, chosen = self.random(budget, amount, circuit), self.attempts[best]
        return {
            "circuit": self.circuits[circuit],
            "budget": budget,
            "weights": "each pair" if each else "shared",
            "amount": amount,
            "f": float(self.f[best]),
            "stderr": float(self.stderr[best]),
            "lowest": float(self.f[low]),
            "highest": float(self.f[high]),
            "by": chosen.by,
            "way": chosen.way,
            "random": float(drawn.mean()) if len(drawn) else float("nan"),
            "held_out": float(self.carried[0][best]),
            "held_stderr": float(self.carried[1][best]),
        }

    @property
    def cautions(self) -> tuple[str, ...]:
        """What must be told with f: see `statistics.gaps.cautions`."""
        compares = compares_answers(self.task["metric"])
        return cautions(self.measured.clean, self.measured.corrupted, compares=compares)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What it takes to move each circuit, beside random weights; and what must be told with it."""
        said = [one for number in range(len(self.circuits)) for one in self._told(number)]
        return (*said, *map(sentence, self.cautions))

    def _told(self, number: int) -> list[str]:
        own = self.attempts.index(Attempt(number))
        name = f"{self.circuits[number]}: " if len(self.circuits) > 1 else ""
        carries = (
            "carry the corrupted run's writes"
            if self.ablation == "counterfactual"
            else f"are ablated ({self.ablation})"
        )
        said = [
            f"{name}f is {share(float(self.f[own]), float(self.stderr[own]))} when the {self.others[number]:,} other "
            f"{self.parts} {carries} ({counted(len(self.measured.gap), 'pair')})."
        ]
        return [*said, *self.said(number)]

    def said(self, number: int = 0) -> tuple[str, ...]:
        """Whether f is outside of `INSIDE` by itself, and what every budget takes to move it, a sentence each."""
        own, (low, high) = float(self.f[self.attempts.index(Attempt(number))]), INSIDE
        first = f"f by itself, {plain(own)}, is outside of [{low:g}, {high:g}] before anything else is changed."
        told = (self._said(budget, number, each) for budget, each in self._attacked(number))
        return (*(() if low <= own <= high else (first,)), *told)

    def _attacked(self, number: int) -> list[tuple[str, bool]]:
        """Budgets that a circuit was attacked with, by weights for all pairs (False) and for each."""
        tried = {(one.budget, one.each) for one in self.attempts if one.circuit == number and one.by != RANDOM}
        return [(budget, each) for budget in BUDGETS for each in (False, True) if (budget, each) in tried]

    def _said(self, budget: str, number: int, each: bool) -> str:
        """What one budget takes, in a sentence."""
        breaks = self.radius(budget, number, each=each).outside or None  # 0: it is outside by itself
        at = self.strongest(budget, breaks, number, each=each)
        amount = breaks or max(self.attempts[i].amount for i in self.among(budget, number, each=each))
        whose = ", every pair's own," if each else ""
        upto = "" if breaks else "up to "
        what = {
            "sparse": f"restoring {upto}{amount:,.0f} of the {self.others[number]:,} other {self.parts}{whose}",
            "bounded": f"weights of at most {amount:.3g} on all others{whose}",
            "free": f"free weights{whose} after at most {counted(round(amount), 'step')}",
        }[budget]
        one, own = "s" if budget == "sparse" else "", plain(float(self.f[self.attempts.index(Attempt(number))]), 3)
        reached = share(float(self.f[at]), float(self.stderr[at])).removeprefix("+")
        said = f"{what} take{one} f from {own} to {reached}"
        if not breaks:
            f = self.f[self._within(budget, amount, number, each)]
            does = "leave" if INSIDE[0] <= float(f[0]) <= INSIDE[1] else "bring"
            said = f"{what} {does}{one} f between {plain(float(f.min()))} and {plain(float(f.max()))}"
        said += self._said_of_random(budget, amount, number)
        far = float(self.carried[0][at])
        said += f"; the strongest of them on held-out pairs: {plain(far, 3)}" if far == far else ""
        return sentence(said)

    def _said_of_random(self, budget: str, amount: float, number: int) -> str:
        """What random weights do: as many, or the next more that were drawn, where a radius lies in between."""
        drawn = {
            one.amount for one in self.attempts if (one.circuit, one.budget, one.by) == (number, budget, RANDOM)
        }  # fmt: skip
        more = min((one for one in drawn if budget == "free" or one >= amount), default=None)
        if more is None:
            return ""
        of_size = {"sparse": f"{more:,.0f} random ones", "bounded": f"random ones of at most {more:.3g}"}
        who = "random ones" if budget == "free" or more == amount else of_size[budget]
        return f"; {who} give {plain(float(self.random(budget, more, number).mean()), 3)} on average"

    def describe(self) -> str:
        """What was attacked, with what, and the radii."""
        lines = [
            f"attack on {counted(len(self.circuits), 'circuit')} · {self.parts} · {self.ablation} ablation · "
            f"{len(self.attempts):,} attempts · {counted(len(self.measured.gap), 'pair')}"
            + (f", {counted(self.held.shape[1], 'pair')} held out" if self.held.shape[1] else ""),
            f"model   {self.model['source']}",
            f"task    {self.task['description']}",
            *(self.radii(number) for number in range(len(self.circuits))),
            f"cost    {self.cost.describe()}",
            "trust   every f was run; what no attempt reaches is not proved out of reach",
        ]
        return "\n".join([*lines, *(f"note    {note}" for note in self.notes)])

    def radii(self, number: int = 0) -> str:
        """The brackets of one circuit's radii on a line."""
        told = []
        for budget, each in self._attacked(number):
            if budget != "free":
                found = self.radius(budget, number, each=each)
                end = "not reached" if found.outside is None else f"at most {shown_amount(found.outside)}"
                if found.interval is not None:
                    end += f" (90% {' to '.join(map(shown_amount, found.interval))})"
                whose = " (each pair's own)" if each else ""
                told.append(f"{BUDGETS[budget]}{whose} over {shown_amount(found.inside)}, {end}")
        size = f"{self.kept[number]:,} {self.parts}"
        return f"radius  {self.circuits[number]} ({size}): {'; '.join(told) or 'free weights alone were tried'}"

    def __repr__(self) -> str:
        table = self.table().to_string(index=False, float_format=lambda x: f"{x:.3f}")
        return f"{self.describe()}\n{table}"

    def page(self, path: str | Path) -> Path:
        """Write its page, one offline file.

        >>> found.page("found.html")
        """
        written: Path = through("Attack.page", self, path)
        return written

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        return write_tensors(path, FORMAT, *pack_attack(self))


FORMAT = "veracausa-attack-1"


def pack_attack(found: Attack) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of an attack."""
    header = {name: getattr(found, name) for name in ("circuits", "parts", "kept", "others", "notes")}
    header |= {"attempts": [asdict(one) for one in found.attempts], **found.about}
    tensors = {"metric": found.metric, "held": found.held, **found.measured.ends}
    return header, tensors | {f"held_{name}": value for name, value in found.held_measured.ends.items()}


def shown_amount(value: float) -> str:
    """How many others, or how large weights may be; what no attempt reached is infinite.

    >>> shown_amount(1280), shown_amount(0.18634), shown_amount(float("inf"))
    ('1,280', '0.186', '∞')
    """
    if np.isinf(value):
        return "∞"
    return whole(value) if float(value).is_integer() else f"{value:.3g}"


def _key(one: Attempt) -> tuple[int, str, float]:
    return one.circuit, one.budget, one.amount


def _first_outside(f: Float[np.ndarray, "draws attempts"], amounts: Float[np.ndarray, " attempts"]) -> np.ndarray:
    """Of every draw the smallest amount with f outside of `INSIDE`; infinity where there is none."""
    outside = (f < INSIDE[0]) | (f > INSIDE[1])
    return np.asarray(np.where(outside, amounts, np.inf).min(1))
