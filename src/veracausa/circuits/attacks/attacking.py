"""Does the rest really not matter? An adversary looks for weights of a circuit's others that move f.

A circuit says that all other edges do not matter; ordinary faithfulness tries that with every one of them ablated. Here
every other edge carries r_e · (its write in this very run) + (1 − r_e) · (what ablates it), r in [0, 1], and an
adversary chooses r (the idea: masks that an adversary sets, VPD 2026, there for components of weights):

* **sparse**: at most k others restored (r = 1), the rest at 0;
* **bounded**: r ≤ ε on all others, by ascent from ε/2, and r = ε on all of them;
* **free**: any r; from r = 0, ½ and random starts.

The goals are −f ("down") and f ("up"), or |f − 1| ("away": to the side of 1 on which the start lies). r is the same for
all pairs, or each pair has its own. Weights that all pairs share are run on held-out pairs, too. Beside every attack
stand random weights of the same budget, and random circuits with as many edges from layer to layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from veracausa.arguments import shown
from veracausa.choices import Ablation, AttackBudget, AttackGoal, AttackStart, CircuitParts
from veracausa.circuits.attacks.attack import Attack
from veracausa.circuits.attacks.bench import BOUNDED_STEPS, HALVINGS, Bench, Target
from veracausa.circuits.attacks.budgets import BUDGETS, LARGEST, SIZES, STARTS, STEPS
from veracausa.circuits.attacks.budgets import GOALS as KNOWN_GOALS
from veracausa.circuits.attacks.climbing import PATH, orders_of
from veracausa.circuits.attacks.others import Field, Others
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.quality.faithfulness import Faithfulness, faithfulness
from veracausa.circuits.runs.ablations import SETTLED, Ablating, require_ablation
from veracausa.circuits.runs.recorded import Recorded, planned_record, record
from veracausa.circuits.runs.run_circuits import ablation_settings
from veracausa.circuits.runs.tapes import circuit_buckets
from veracausa.engine.attention import SUFFIX
from veracausa.engine.guard import attention_function, precision_of, shared
from veracausa.engine.session import Session, session
from veracausa.engine.work import gives
from veracausa.errors import CircuitError, MethodError
from veracausa.scores.scores import task_header
from veracausa.suggestions import not_known
from veracausa.tasks.measurement import Measurement
from veracausa.tasks.references import Reference, reference_set
from veracausa.units.edges import Edges
from veracausa.units.every_unit import all_edges

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Defaults.
GOALS: tuple[AttackGoal, ...] = ("down", "up")
FROM: tuple[AttackStart, ...] = ("zero", "half", "random")


@dataclass(frozen=True, eq=False)
class AdversaryWork:
    """What `adversary` is about to do.

    `shares`: one for each kind of weights: those of all pairs (False), those that each pair has of its own (True).
    """

    lm: Model
    task: Task
    held_out: Task | None
    circuits: dict[str, Circuit]
    others: tuple[Others, ...]
    budgets: dict[str, tuple[float, ...]]
    goals: tuple[str, ...]
    starts: tuple[str, ...]
    shares: tuple[bool, ...]
    draws: int
    how: dict[str, Any]
    seed: int
    kind: ClassVar[str] = "edge gradients"

    @property
    def what(self) -> str:
        """In words."""
        return f"attacks ({', '.join(self.budgets)}) on {len(self.circuits)} circuits"

    @property
    def tasks(self) -> list[Task]:
        """Attacked and held-out pairs."""
        return [self.task] if self.held_out is None else [self.task, self.held_out]

    @property
    def settings(self) -> dict[str, Any]:
        """All that the numbers depend on, but for the model, the pairs and the circuits."""
        how = ablation_settings(self.task, self.how["ablation"], self.how["reference"], self.seed, None)
        budgets = {name: list(amounts) for name, amounts in self.budgets.items()}
        own = {"goals": list(self.goals), "starts": list(self.starts), "draws": self.draws, "seed": self.seed}
        own |= {"orders": list(orders_of(len(self.budgets["sparse"])))} if "sparse" in self.budgets else {}
        own |= {"bounded_from": "half"} if "bounded" in self.budgets else {}
        held = (
            {"held_out": self.held_out.describe(), "held_out_digest": self.held_out.digest()} if self.held_out else {}
        )
        return how | budgets | own | held | {"each": True in self.shares}

    @property
    def edges(self) -> Edges:
        """All edges: those that have weights, and the circuits'."""
        return all_edges(self.lm)

    def groups(self) -> list[tuple[int, tuple[int, ...]]]:
        """Buckets of attacked pairs that are run together."""
        return circuit_buckets(self.lm, self.task, self.how["ablation"] in SETTLED)

    def batches(self) -> int:
        """Buckets that are recorded, once for the attacks and once for every circuit's own run."""
        share = self.how["ablation"] in SETTLED
        return (1 + len(self.circuits)) * sum(len(circuit_buckets(self.lm, task, share)) for task in self.tasks)

    @property
    def supposing(self) -> str:
        """What the forecast takes for granted."""
        one = "that f is pushed one way only and " if self._ways[0] < self._ways[1] else ""
        return f"{one}that every radius is narrowed to its end, in every way"

    @property
    def _ways(self) -> tuple[int, int]:
        """Ways that f is pushed, at least and at most; "away" is down or up."""
        named = {*self.goals}
        return max(1, len(named - {"away"})), min(2, len(named))

    def tokens(self) -> float:
        """Token-layers, if "away" is no way of its own and every radius is narrowed to its end."""
        return self._tokens(self._ways[0])

    def at_most(self) -> float:
        """The same if it is."""
        return self._tokens(self._ways[1])

    def _tokens(self, ways: int) -> float:
        share = self.how["ablation"] in SETTLED
        slopes, chosen, random = (len(self.circuits) * one for one in self._counts(ways))
        seen, unseen = (sum(one) for one in zip(*map(self._recorded, self.tasks), strict=True))
        _, behind = planned_record(self.lm, self.task, share_prefix=share)
        per_pair = chosen * len(self.shares) * behind + 2 * slopes * len(self.shares) * behind
        own = sum(
            faithfulness.work(self.lm, task, circuit, **self.how, seed=self.seed).tokens()
            for task in self.tasks
            for circuit in self.circuits.values()
        )
        held = (unseen - behind) * chosen if self.held_out is not None else 0
        return float(seen + own + per_pair + held + random * unseen)

    def _recorded(self, task: Task) -> tuple[int, int]:
        return planned_record(self.lm, task, share_prefix=self.how["ablation"] in SETTLED)

    def _counts(self, ways: int) -> tuple[int, int, int]:
        """Of one circuit: gradients, runs of chosen weights, runs of random ones."""
        counts = {name: len(amounts) for name, amounts in self.budgets.items()}
        slopes = runs = 0
        if "sparse" in counts:
            orders = orders_of(counts["sparse"])
            slopes += 1 + len(PATH) + (len(orders) - 2) * ways * (counts["sparse"] - 1)
            runs += len(orders) * ways * (counts["sparse"] + HALVINGS)
        if "bounded" in counts:
            attempts = ways * (counts["bounded"] + HALVINGS)
            slopes, runs = slopes + BOUNDED_STEPS * attempts, runs + attempts + counts["bounded"] + HALVINGS
        if "free" in counts:
            climbs = ways * len(self.starts)
            slopes += climbs * int(self.budgets["free"][-1])
            runs += climbs * counts["free"] + len(self.starts)
        random = self.draws * (1 + sum(1 if name == "free" else count for name, count in counts.items()))
        return slopes, runs, random

    @property
    def columns(self) -> int:
        """Attempts at most."""
        _, chosen, random = self._counts(self._ways[1])
        return len(self.circuits) * (1 + chosen * len(self.shares) + random)

    @torch.inference_mode(False)
    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Attack:
        """Attack every circuit; finished attempts are kept."""
        lm, digests = self.lm, [one.edges.digest() for one in self.circuits.values()]
        shape = sum(map(len, self.tasks)), self.columns
        asked = self.settings | {"circuits": digests, "parts": self.others[0].parts}
        with shared(lm.decoder), session(
            lm, self.task, shape, out=out, name="adversary", asked=asked, measured=False, show=show_progress
        ) as call, call.bar(self.what, self.tokens()):  # fmt: skip
            with call.anew():
                own = [[self._own(call, task, one) for task in self.tasks] for one in self.circuits.values()]
            with attention_function(lm.decoder, SUFFIX):
                with call.anew():
                    recorded = [self._record(call, *one) for one in zip(self.tasks, own[0], strict=True)]
                call.hold(recorded[0].measured)
                bench = Bench(call, len(self.task))
                for number, found in enumerate(own):
                    self._attack(bench, number, recorded, found)
            notes = precision_of(lm.decoder).notes
        return self._found(bench, [one.measured for one in recorded], notes)

    def _own(self, call: Session, task: Task, circuit: Circuit) -> Faithfulness:
        """The circuit's own run, r = 0: that of `vc.faithfulness`."""
        found = faithfulness(self.lm, task, circuit, **self.how, seed=self.seed, show_progress=False)
        call.cost.forward += found.cost.forward
        call.advance()
        return found

    def _record(self, call: Session, task: Task, own: Faithfulness) -> Recorded:
        """The pairs, recorded; the ends of f are those of `vc.faithfulness`."""
        how = Ablating.of(self.lm, task, self.how["ablation"], self.how["reference"], self.seed, None)
        return replace(record(self.lm, task, call.cost, how=how), measured=own.measured)

    def _attack(self, bench: Bench, number: int, recorded: list[Recorded], own: list[Faithfulness]) -> None:
        """Everything that one circuit is tried by."""
        settled = self.how["ablation"] in SETTLED
        fields = [Field(one, self.others[number], settled) for one in recorded]
        target = Target(bench, number, fields[0], fields[1] if fields[1:] else None, own[0].f, self.seed)
        bench.own(number, [one.metric for one in own])
        sizes = [int(size) for size in self.budgets.get("sparse", ())]
        sizes = sorted({min(size, len(self.others[number])) for size in sizes})
        for each in self.shares if len(self.others[number]) else ():
            if sizes:
                target.sparse(sizes, self.goals, each)
            if "bounded" in self.budgets:
                target.bounded(self.budgets["bounded"], self.goals, each)
            if "free" in self.budgets:
                target.free(self.starts, [int(count) for count in self.budgets["free"]], self.goals, each)
        random = self.budgets | ({"sparse": tuple(sizes)} if sizes else {})
        random |= {"free": (1.0,)} if "free" in self.budgets else {}
        target.controls(self.draws, random)

    def _found(self, bench: Bench, measured: list[Measurement], notes: tuple[str, ...]) -> Attack:
        call, n, count = bench.call, len(self.task), len(bench.attempts)
        values = call.values[:, :count].T.contiguous()
        none = Measurement(measured[0].clean[:0], measured[0].corrupted[:0])
        return Attack(
            tuple(self.circuits),
            self.others[0].parts,
            tuple(_kept(one) for one in self.others),
            tuple(map(len, self.others)),
            tuple(bench.attempts),
            values[:, :n].contiguous(),
            values[:, n:].contiguous(),
            measured[0],
            measured[1] if measured[1:] else none,
            call.cost,
            call.origin,
            task_header(self.task),
            self.settings,
            notes,
        )


def _kept(others: Others) -> int:
    """Edges, or nodes that write something, of a circuit."""
    return int(others.kept.sum()) if others.parts == "edges" else int(others.kept.any(0).sum())


@gives(Attack)
def adversary(
    lm: Model,
    task: Task,
    circuit: Circuit | Sequence[Circuit] | Mapping[str, Circuit],
    *,
    budgets: Sequence[AttackBudget] = ("sparse", "bounded", "free"),
    parts: CircuitParts = "edges",
    sizes: Sequence[int] = SIZES,
    largest: Sequence[float] = LARGEST,
    steps: Sequence[int] = STEPS,
    starts: Sequence[AttackStart] = FROM,
    goals: Sequence[AttackGoal] = GOALS,
    each: bool = False,
    held_out: Task | None = None,
    draws: int = 3,
    ablation: Ablation = "counterfactual",
    reference: Reference | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> AdversaryWork:
    """How far an adversary moves a circuit's f by what it puts in the place of the circuit's others; see the module.

    Args:
        lm: the model.
        task: the pairs that the adversary sees, and is judged on.
        circuit: one circuit, or several, which are attacked in the same recorded runs; best with its dead ends
            (`vc.select(…, prune=False)`), without which what leads to them has no slope and is hardly chosen.
        budgets: what the adversary may do: "sparse", "bounded", "free".
        parts: what has a weight: other "edges", or other "nodes" (all edges out of a head or MLP alike; the circuit is
            then one of whole nodes, see `Circuit.of_nodes`).
        sizes: how many others a sparse adversary restores, in the four orders of `attacks.climbing`; all orders that
            break the circuit with the fewest are then narrowed down. At each size both greedy orders take a gradient
            anew, so more sizes find smaller radii.
        largest: largest weights ε of a bounded adversary: four steps of sign ascent from ε/2 on all others, where
            smaller ε suffice than from 0, and ε on all others, which finds what is missing where nothing has a slope;
            narrowed down likewise.
        steps: after how many steps of sign ascent a free adversary is looked at; the first step is ½, the t-th ½ / √t.
        starts: where it starts: "zero", "half" or "random"; a start that is named several times is drawn anew.
        goals: "down" (lower f) and "up" (raise f), since either may take f out of [½, 1½] first, wherever f lies;
            "away" is the one of them that raises |f − 1|, and half of the price.
        each: also let each pair have weights of its own. What weights for all pairs reach counts for these.
        held_out: pairs that the adversary does not see, on which the weights for all pairs are run, too.
        draws: random weights for every budget, and random circuits of the same profile.
        ablation: what the others carry where r = 0: "counterfactual", "resample", "zero" or "mean".
        reference: the set that means and other prompts come from; default: `task`.
        seed: of all draws.
        out: a folder to keep finished attempts in: an interrupted call with the same arguments goes on from them.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Returns:
        `Attack`: f of every attempt, the strongest by budget, the radius, beside random weights.

    Raises:
        CircuitError: no circuit, one of another model, or one of torn nodes for parts="nodes".
        MethodError: an option out of range, or ablation="optimal", which learns constants for one circuit alone.
        GapError, ContractError, NumericsError, OutOfMemoryError, FileError: as for `vc.exact`.

    Cost: a step is one run of the whole graph with its gradient, about three forward passes a pair; a restored set one
    run of that circuit. See `vc.forecast(vc.circuits.adversary, lm, task, circuit=circuit)`.

    >>> found = vc.circuits.adversary(lm, task, circuit, budgets=["sparse"])
    >>> found.radius("sparse").outside
    """
    named = _named(circuit)
    require_attack(budgets, ablation, goals, starts, draws)
    asked = {"sparse": sizes, "bounded": largest, "free": steps}
    chosen = {name: tuple(asked[name]) for name in asked if name in budgets}
    require_amounts(chosen)
    given = reference_set(lm, reference)
    given = task if given is None and held_out is not None and ablation != "counterfactual" else given
    others = tuple(Others.of(lm.graph, one.require_for(lm).mask, parts) for one in named.values())
    how = {"ablation": ablation, "reference": given}
    Ablating.of(lm, task, ablation, given, seed, None)  # refuses where there is nothing to resample
    every = (False, True) if each else (False,)
    return AdversaryWork(
        lm, task, held_out, named, others, chosen, tuple(goals), tuple(starts), every, draws, how, seed
    )


def require_attack(
    budgets: Sequence[str],
    ablation: str,
    goals: Sequence[str] = GOALS,
    starts: Sequence[str] = FROM,
    draws: int = 0,
) -> None:
    """MethodError unless all this can be asked, and others of a circuit that is attacked can be ablated so."""
    for what, words, known in (("budget", budgets, BUDGETS), ("goal", goals, KNOWN_GOALS), ("start", starts, STARTS)):
        _require_among(what, words, known)
    if draws < 0:
        raise MethodError(f"draws={draws}: at least 0 are needed.")
    require_ablation(ablation)
    if ablation == "optimal":
        raise MethodError(
            "ablation='optimal' learns constants for one circuit with nothing restored, so they mean nothing where an "
            "adversary restores others. Take 'counterfactual', 'resample', 'zero' or 'mean'."
        )


def _named(circuit: Circuit | Sequence[Circuit] | Mapping[str, Circuit]) -> dict[str, Circuit]:
    """Circuits by name."""
    if isinstance(circuit, Circuit):
        return {"circuit": circuit}
    if isinstance(circuit, Mapping):
        found = {str(name): one for name, one in circuit.items()}
    else:
        found = {f"circuit {number}": one for number, one in enumerate(circuit)}
    if not found:
        raise CircuitError("There is no circuit to attack: the list is empty.")
    return found


def _require_among(what: str, given: Sequence[str], known: Any) -> None:
    """MethodError unless these are some of the known words."""
    if isinstance(given, str) or not given:
        raise MethodError(f"{what}s={shown(given)}: give a list of {what}s, of {', '.join(known)}.")
    for one in given:
        if one not in known:
            raise MethodError(not_known(what, one, known))
    if len(set(given)) < len(given) and what != "start":  # a random start named twice is drawn anew
        raise MethodError(f"{what}s={shown(given)}: the same {what} twice. Name each once.")


def require_amounts(chosen: Mapping[str, Sequence[float]]) -> None:
    """MethodError unless the amounts of every budget rise, and are what they are of."""
    for name, amounts in chosen.items():
        whole = name != "bounded"
        fits = all((one >= 1 and one == int(one)) if whole else 0 < one <= 1 for one in amounts)
        if not amounts or not fits or list(amounts) != sorted(set(amounts)):
            argument = {"sparse": "sizes", "bounded": "largest", "free": "steps"}[name]
            wanted = "rising numbers from 1 on" if whole else "rising weights in (0, 1]"
            raise MethodError(f"{argument}={shown(list(amounts))}: give {wanted}.")
