"""What heads look at on a task: attention that has the pattern of a known kind of head.

Means over clean prompts of attention probabilities A[from, to]; t₁ < t₂ are two places of the same token:

* previous token: A[t, t − 1], mean over t ≥ 1;
* duplicate token: A[t₂, t₁], summed over all t₁;
* induction: A[t₂, t₁ + 1], summed over all t₁ (a first place right before the second is left out);
* S-inhibition-like: A[last, last place of the wrong answer];
* name-mover-like: A[last, places of the right answer], summed.

t₂ are the second places of the answers where an answer stands twice in the prompt (IOI's subject), else of any token.
A head gets the kind with the largest figure if that is at least `THRESHOLD`, else none. This is about where a head
looks and about nothing else: what it moves, and whether that matters, its exact effect must say; so "-like".
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.effects.replacements import recorded
from veracausa.engine.attention import attention_pattern
from veracausa.engine.guard import borrowed
from veracausa.engine.tape import State
from veracausa.engine.work import gives
from veracausa.result import Shown
from veracausa.scores.files import unpack_units
from veracausa.scores.packed import pack_units
from veracausa.scores.scores import task_header
from veracausa.storage.files import at, read_tensors, write_tensors
from veracausa.storage.schema import MODEL, TASK, many, reading, record, require_tensors, whole
from veracausa.storage.schema import cost as cost_of
from veracausa.units.every_unit import all_units
from veracausa.units.table import Units

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float

    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Mean attention from which on a head has a kind.
THRESHOLD = 0.3
ROLES = ("previous token", "duplicate token", "induction", "S-inhibition-like", "name-mover-like")
NONE = "none of these"
_FORMAT = "veracausa-head-roles-2"
_HEADER = record(counts=many(whole(), len(ROLES)), model=MODEL, task=TASK, cost=cost_of)


@dataclass(frozen=True, eq=False)
class HeadRoles(Shown):
    """Mean attention of every head by the patterns of `ROLES`, [roles, heads]; NaN: no prompt has such places.

    `error`: standard errors over prompts. `counts`: prompts behind each role's figures. `looks`: where every head looks
    in the first pair from the last position that is read, [runs, heads, keys]: the clean prompt, then the corrupted one
    where it is as long; None in a file that has none.

    >>> roles = vc.counterfactuals.head_roles(lm, vc.tasks.ioi(lm, n=16))
    >>> roles.role("a20.h0"), roles.table()
    """

    attention: Float[np.ndarray, "roles heads"]
    error: Float[np.ndarray, "roles heads"]
    counts: tuple[int, ...]
    units: Units
    model: dict[str, str]
    task: dict[str, Any]
    cost: Cost
    looks: Float[np.ndarray, "runs heads keys"] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """From which share of its attention on a head has a kind."""
        return {"threshold": THRESHOLD}

    @property
    def roles(self) -> list[str]:
        """Every head's kind, `NONE` where no figure reaches the threshold."""
        filled = np.nan_to_num(self.attention, nan=-1.0)
        best = filled.argmax(0)
        strong = filled.max(0) >= THRESHOLD
        return [ROLES[role] if enough else NONE for role, enough in zip(best, strong, strict=True)]

    def role(self, name: str) -> str:
        """The kind of the head called `name`."""
        return self.roles[self.units.find(name)]

    def said(self, name: str) -> str:
        """The kind of a head with its figure: "name-mover-like (0.62 ± 0.03 of its attention)"."""
        u = self.units.find(name)
        role = self.roles[u]
        if role == NONE:
            return NONE
        row = ROLES.index(role)
        error = f" ± {self.error[row, u]:.2f}" if np.isfinite(self.error[row, u]) else ""
        return f"{role} ({self.attention[row, u]:.2f}{error} of its attention)"

    def table(self) -> pd.DataFrame:
        """One row per head: its kind, and mean attention and standard error of every pattern."""
        table: pd.DataFrame = self.units.table()
        table["role"] = self.roles
        for row, role in enumerate(ROLES):
            table[role], table[f"stderr: {role}"] = self.attention[row], self.error[row]
            table[f"n: {role}"] = self.counts[row]
        return table

    @property
    def sentences(self) -> tuple[str, ...]:
        """How many heads of each kind there are, and the clearest of each."""
        said = []
        for row, role in enumerate(ROLES):
            members = [u for u, own in enumerate(self.roles) if own == role]
            if not self.counts[row]:
                said.append(f"No prompt has the places that tell {role} heads.")
            elif members:
                best = max(members, key=lambda u: self.attention[row, u])
                verb, plural = ("is", "") if len(members) == 1 else ("are", "s")
                said.append(
                    f"{len(members)} head{plural} {verb} {role} by attention (at least {THRESHOLD:g}, n = "
                    f"{self.counts[row]}); clearest: {self.units.names[best]} with {self.attention[row, best]:.2f}."
                )
            else:
                said.append(f"No head is {role} by attention (at least {THRESHOLD:g}, n = {self.counts[row]}).")
        return tuple(said)

    def describe(self) -> str:
        """What these numbers are."""
        return (
            f"head roles by attention · {len(self.units)} heads\nmodel   {self.model['source']}\n"
            f"task    {self.task['description']}\ncost    {self.cost.describe()}"
        )

    def __repr__(self) -> str:
        return "\n".join([self.describe(), *self.sentences])

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header = {"counts": list(self.counts), "model": self.model, "task": self.task, "cost": self.cost.to_dict()}
        tensors = pack_units(self.units) | {
            "attention": torch.from_numpy(self.attention),
            "error": torch.from_numpy(self.error),
        }
        if self.looks is not None:
            tensors["looks"] = torch.from_numpy(self.looks)
        return write_tensors(path, _FORMAT, header, tensors)


def load_head_roles(path: str | Path) -> HeadRoles:
    """Read what `HeadRoles.save` wrote; FileError for any other file.

    >>> vc.open("roles.safetensors").role("a20.h0")
    """
    header, tensors = read_tensors(path, _FORMAT)
    with reading(at(path)):
        units = unpack_units("heads", tensors)
        wanted = dict.fromkeys(("attention", "error"), "float roles units")
        wanted |= {"looks": "finite runs units keys"} if "looks" in tensors else {}
        require_tensors(tensors, wanted, roles=len(ROLES), units=len(units))
        found = _HEADER(header)
        figures = (tensors["attention"].numpy(), tensors["error"].numpy())
        looks = tensors["looks"].numpy() if "looks" in tensors else None
        rest = {name: found[name] for name in ("counts", "model", "task", "cost")}
        return HeadRoles(*figures, units=units, looks=looks, **rest)


@dataclass(frozen=True, eq=False)
class HeadRolesWork:
    """What `head_roles` is about to do: one forward pass over the clean prompts and one corrupted prompt."""

    lm: Model
    task: Task
    kind: ClassVar[str] = "gradients"

    def batches(self) -> int:
        """Groups of prompts that are recorded."""
        return len(set(self.task.lengths))

    def tokens(self) -> float:
        """Token-layers of the whole call."""
        return float(self._tokens)

    @property
    def _shown(self) -> list[tuple[int, ...]]:
        """The first pair's prompts: the clean one, and the corrupted one if its positions are the same."""
        clean, corrupted = self.task.clean[0], self.task.corrupted[0]
        return [clean, corrupted] if self.task.paired and len(clean) == len(corrupted) else [clean]

    @property
    def _tokens(self) -> int:
        more = sum(map(len, self._shown[1:]))
        return (sum(self.task.lengths) + more) * self.lm.layers

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> HeadRoles:
        """Look at every head's attention; so fast that there is no bar, and nothing is kept."""
        lm, task, units = self.lm, self.task, all_units(self.lm, "heads")
        layers = np.unique(units.layer).tolist()
        began, model, cost = time.monotonic(), lm.header(), Cost(full=self._tokens)
        figures = np.full((len(task), len(ROLES), len(units)), np.nan)
        looks: list[np.ndarray] = []
        with borrowed(lm.decoder), torch.no_grad():
            for attention, example in self._patterns(task.clean, layers, cost):
                for row, found in enumerate(_figures(attention, task, example)):
                    if found is not None:
                        figures[example, row] = found
                if example == 0:
                    looks.insert(0, attention[:, self._read])
            looks += [attention[:, self._read] for attention, _ in self._patterns(self._shown[1:], layers, cost)]
        known = ~np.isnan(figures[..., 0])
        counts = known.sum(0)
        mean, error = np.full((2, len(ROLES), len(units)), np.nan)
        for row, count in enumerate(counts):
            own = figures[known[:, row], row]
            if count:
                mean[row] = own.mean(0)
            if count > 1:
                error[row] = own.std(0, ddof=1) / np.sqrt(count)
        cost.seconds = time.monotonic() - began
        return HeadRoles(mean, error, tuple(counts.tolist()), units, model, task_header(task), cost, np.stack(looks))

    @property
    def _read(self) -> int:
        """The last position that is read of the first pair."""
        return [*self.task.places[0]][-1]

    def _patterns(
        self, prompts: Sequence[tuple[int, ...]], layers: list[int], cost: Cost
    ) -> Iterator[tuple[Float[np.ndarray, "heads positions keys"], int]]:
        """Every head's attention in each prompt, with the prompt's index."""
        for examples, state in recorded(self.lm, prompts, ("queries", "keys"), cost):
            found = torch.stack([pattern(state, layer) for layer in layers], 1).flatten(1, 2)
            yield from zip(found.double().cpu().numpy(), examples, strict=True)


@gives(HeadRoles)
def head_roles(lm: Model, task: Task, *, memory: float | str | None = None) -> HeadRolesWork:
    """Where every head looks on the clean prompts of a task, and what kind of head that makes it.

    Cost: one forward pass over the clean prompts, and the first corrupted one. `memory`, NumericsError and
    OutOfMemoryError: as for `vc.exact`.

    >>> vc.counterfactuals.head_roles(lm, vc.tasks.ioi(lm, n=16)).role("a20.h0")
    """
    return HeadRolesWork(lm, task)


def pattern(state: State, layer: int) -> Float[Tensor, "examples heads positions keys"]:
    """Attention probabilities of a run that was recorded with its queries and keys."""
    query, key = state.sites["queries"][layer], state.sites["keys"][layer]
    found = attention_pattern(query, key, **state.attention[layer])
    return found.view(*query.shape[:3], key.shape[2])


def _figures(
    attention: Float[np.ndarray, "heads positions keys"], task: Task, example: int
) -> Iterator[Float[np.ndarray, " heads"] | None]:
    """The figures of one prompt in the order of `ROLES`, None where it lacks the places."""
    ids = task.clean[example]
    places = {token: [t for t, other in enumerate(ids) if other == token] for token in ids}
    answers = {*task.correct[example], *task.incorrect[example]}
    twice = {token: own for token, own in places.items() if len(own) > 1}
    twice = {token: own for token, own in twice.items() if token in answers} or twice
    repeats = [(late, own[:k]) for own in twice.values() for k, late in enumerate(own) if k]
    yield np.mean([attention[:, t, t - 1] for t in range(1, len(ids))], axis=0) if len(ids) > 1 else None
    yield _mean(attention, repeats)
    yield _mean(
        attention, [(late, after) for late, early in repeats if (after := [t + 1 for t in early if t + 1 < late])]
    )
    wrong = [own[-1] for token in task.incorrect[example] if (own := places.get(token))]
    read = [*task.places[example]]
    yield attention[:, read][..., wrong].sum(2).mean(1) if wrong else None
    right = [t for token in task.correct[example] for t in places.get(token, ())]
    yield attention[:, read][..., right].sum(2).mean(1) if right else None


def _mean(
    attention: Float[np.ndarray, "heads positions keys"], looks: list[tuple[int, list[int]]]
) -> Float[np.ndarray, " heads"] | None:
    """Mean over (from, to) of the attention from a place to several."""
    return np.mean([attention[:, late, early].sum(1) for late, early in looks], axis=0) if looks else None
