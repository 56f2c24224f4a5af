"""What a call will cost, told before it is made; the verb's own work counts it, so both are about the same thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from veracausa.arguments import bytes_of
from veracausa.cost import Step, bounds
from veracausa.engine.budget import within
from veracausa.engine.footprint import Memory
from veracausa.engine.guard import borrowed
from veracausa.errors import MethodError
from veracausa.placed import home_of
from veracausa.planning.fitting import require_fits
from veracausa.planning.groups import sized
from veracausa.planning.memory import peak
from veracausa.planning.rates import begun, rates
from veracausa.progress import duration
from veracausa.words import counted, listed

if TYPE_CHECKING:
    from veracausa.engine.work import Work
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Verbs whose names are no words for what they give.
_WORDS = {"exact": "exact effects", "attribute": "estimates", "verify": "a receipt", "locate": "location"}


@dataclass(frozen=True)
class Price:
    """What a call will cost. `what`: in words. `passes`: token-layers in forward passes over its clean prompts.

    `seconds`: at this machine's speed just now; None where it was not measured, or could not be. `memory`: bytes at
    most, about, by part. `steps`: parts of the work that run at speeds of their own.

    >>> vc.forecast(vc.exact, lm, task, units="neurons").seconds
    """

    what: str
    token_layers: float
    passes: float
    seconds: float | None
    memory: Memory
    steps: tuple[Step, ...]

    @property
    def most(self) -> float:
        """Token-layers at most: more than `token_layers` where what is run shows only on the way."""
        return sum(step.token_layers if step.most is None else step.most for step in self.steps)

    def describe(self) -> str:
        """In a line."""
        parts = [f"{self.token_layers:,.0f} token-layers = {self.passes:,.1f} forward passes"]
        if self.most > self.token_layers:
            supposing = listed(list(dict.fromkeys(step.supposing for step in self.steps if step.supposing)))
            parts.append(f"at most {self.most:,.0f}, by what it finds on the way")
            parts += [f"supposing {supposing}"] if supposing else []
        if self.seconds is not None:
            parts.append(f"about {duration(self.seconds)} at this machine's speed")
        parts.append(f"peak memory about {sized(self.memory.beside)} beside the weights")
        return f"{self.what}: {', '.join(parts)}"

    def __repr__(self) -> str:
        rows = [f"  {name:<12}{sized(count):>10}" for name, count in self.memory.parts.items()]
        return "\n".join([self.describe(), *rows])

    def _repr_html_(self) -> str:
        return f"<pre><code>{escape(repr(self))}</code></pre>"


def forecast(
    verb: Callable[..., Any],
    lm: Model,
    task: Task | str | Sequence[Task] | Mapping[str, Task] | None = None,
    *given: Any,
    measure: bool = True,
    memory: float | str | None = None,
    **arguments: Any,
) -> Price:
    """What a call will cost in token-layers, passes, seconds and memory, without making it.

    Args:
        verb: a public function that runs the model: `vc.exact`, `vc.attribute`, `vc.causes.locate`, …
        lm: the model.
        task: the pairs, or what else the verb takes second: several tasks for `vc.study`, one of each corruption for
            `vc.counterfactuals.corruptions`, a prompt in plain words for `vc.graphs.attribution_graph`.
        given: nothing: arguments go by name.
        measure: time a few runs of the same kind on the task's first pair, for the seconds.
        memory: bytes beside the weights to plan with, such as 8e9 or "8GB" (default: those that are free now). The more
            there are, the more pairs and rows run at once. The verbs themselves take it, too.
        arguments: the verb's own, by name.

    Raises:
        OutOfMemoryError: it cannot fit; says with what it would.
        MethodError: something that has no price: it runs no model, or how long it takes shows only as it goes.
        Others as for the verb itself with these arguments.

    >>> vc.forecast(vc.exact, lm, task, units="neurons")
    exact effects of 46,080 neurons on 4 pairs: 1,234,567 token-layers = 57.3 forward passes, about 3 min 20 s at this
    machine's speed, peak memory about 1.2 GB beside the weights
      weights       269.0 MB
      recordings     44.1 MB
      rows            1.1 GB
      gradients       0.1 MB
      scores          1.7 MB
    """
    planned = getattr(verb, "work", None)
    if not callable(planned):
        name = getattr(verb, "__name__", repr(verb))
        raise MethodError(
            f"{name} has no forecast. Give a function that runs the model, as it is called: vc.forecast(vc.exact, lm, "
            "task, units='neurons'); vc.select, vc.agreement and others that only read scores cost next to nothing."
        )
    task = arguments.pop("tasks", None) if task is None else task
    if task is None or given:
        name = getattr(verb, "__name__", "verb")
        raise MethodError(
            "A forecast takes the verb, the model and the pairs one after the other, and the verb's other arguments by "
            f"name: vc.forecast({name}, lm, task, …=…)."
        )
    with within(bytes_of(memory)):
        work: Work = planned(lm, task, **arguments)
        with nullcontext() if home_of(work.lm.hf).type == "meta" else borrowed(work.lm.decoder):  # asked things once
            require_fits(work)
            steps, most = steps_of(work, getattr(verb, "__name__", "")), peak(work)
    total, whole = sum(step.token_layers for step in steps), sum(work.task.lengths) * work.lm.layers
    if measure:
        steps = begun(steps, rates(lm, work.task, (step.kind for step in steps)))
    known = [step.seconds for step in steps if step.seconds is not None]
    seconds = sum(known) if known and len(known) == len(steps) else None
    return Price(_said(work, verb), total, total / whole, seconds, most, tuple(steps))


def steps_of(work: Work, name: str) -> list[Step]:
    """The steps that a work says it has, or the whole as one."""
    if callable(steps := getattr(work, "steps", None)):  # of others it is a number: steps of a search
        return list(steps())
    tokens, whole = work.tokens(), sum(work.task.lengths) * work.lm.layers
    return [Step(name, work.kind, tokens, tokens / whole, batches=work.batches(), **bounds(work))]


def _said(work: Work, verb: Callable[..., Any]) -> str:
    """A work in words: its own, or the verb's name with how many units there are."""
    name, pairs = getattr(verb, "__name__", "the call"), counted(len(work.task), "pair")
    own = getattr(work, "what", None)
    if own is None:
        units: Any = next((getattr(work, at) for at in ("table", "units") if hasattr(work, at)), None)
        own = _WORDS.get(name, name.replace("_", " "))
        if hasattr(units, "kind"):
            own += f" of {len(units):,} {units.kind}"
    return f"{own} on {pairs}"
