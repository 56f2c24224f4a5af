"""The census: every type of causal language model that transformers knows, tried on a tiny random model.

    python scripts/census.py                              # all types: a line each
    python scripts/census.py --only phi olmo2             # some of them
    python scripts/census.py --write docs/families.md     # the table of the docs
    python scripts/census.py --only phi --write docs/families.md  # the lines of one type in it

A type *works* if the library takes its model, all contracts of `lm.check()` hold, and exact effects and gradient
estimates of every kind of unit are those of whole runs of the bare model with plain hooks (`census_plain.py`, which
knows nothing of the library's anatomies). It works *in part* if some kinds of units are refused, and is
*refused* if its model is. WRONG: the library gave a number that the plain run does not confirm.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import census_models
import census_page
import torch
import transformers
from census_models import Type
from census_plain import Plain

import veracausa as vc
from veracausa.anatomy import decoder_of
from veracausa.engine.guard import precision_of
from veracausa.errors import VeracausaError
from veracausa.loading.text_decoders import text_decoder
from veracausa.model import Model
from veracausa.tasks.task import Task

KINDS = ("heads", "attention", "mixers", "channels", "mlps", "neurons", "residual", "edges")


@dataclass
class Verdict:
    """What was found of one type. `kinds`: kind of unit → "" if it is right, else why it is not given."""

    type: Type
    refused: str = ""
    built: bool = True
    contracts: list[int] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def word(self) -> str:
        """`works`, `part`, `refused`, `fails` (a contract, or an error that is not in words), `unbuilt` or `WRONG`."""
        if not self.built:
            return "unbuilt"
        if self.wrong:
            return "WRONG"
        if self.refused:
            return "refused"
        if self.broken:
            return "fails"
        return "part" if any(self.kinds.values()) else "works"

    @property
    def right(self) -> list[str]:
        """Kinds of units that can be asked for and are right."""
        return [kind for kind, why in self.kinds.items() if not why]

    @property
    def detail(self) -> str:
        """What holds and what does not, in words."""
        held = f"contracts {_ranges(self.contracts)}" if self.contracts else "no contract"
        reasons: dict[str, list[str]] = {}
        for kind, why in self.kinds.items():
            reasons.setdefault(why, []).append(kind)
        lacking = "; ".join(f"no {', '.join(kinds)}: {_bare(why)}" for why, kinds in reasons.items() if why)
        unseen = f"not compared: {', '.join(self.unseen)}" if self.unseen else ""
        right = ", ".join(self.right) or "nothing"
        parts = {
            "works": [held, unseen],
            "part": [right, held, lacking, unseen],
            "refused": [self.refused],
            "unbuilt": [self.refused],
            "fails": [*self.broken, held, right, lacking],
            "WRONG": [*self.wrong, *self.broken, held],
        }[self.word]
        return "; ".join(part for part in parts if part)

    def __str__(self) -> str:
        word = {"part": "works in part", "unbuilt": "not tried", "fails": "FAILS"}.get(self.word, self.word)
        return f"{self.type}: {word} ({self.detail})"


def _bare(why: str) -> str:
    """A reason without the words that say again what is not there."""
    return re.sub(r"^\w+ has no [\w ]+ that veracausa could tell: ", "", why).rstrip(".")


def _ranges(numbers: Sequence[int]) -> str:
    """1, 2, 3, 5 as "1–3, 5"."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def first_sentence(error: BaseException) -> str:
    """An error in a line; one that is not the library's own with its kind."""
    text = " ".join(str(error).split())
    return text if isinstance(error, VeracausaError) else f"{type(error).__name__}: {text}"


def verdict(kind: Type, quick: bool = False) -> Verdict:
    """Try one type; `quick`: one head alone, and no contracts."""
    found, start = Verdict(kind), time.perf_counter()
    try:
        hf = census_models.make(kind)
    except ImportError:
        found.refused, found.built = "it needs a library that is not installed", False
        return found
    except Exception as error:
        found.refused, found.built = f"its own configuration makes no model ({first_sentence(error)[:200]})", False
        return found
    try:
        hf, _ = text_decoder(hf)
        lm = Model(hf, None, str(kind), f"{kind}, random weights", decoder_of(hf))
    except VeracausaError as error:
        found.refused = first_sentence(error)
        return found
    except Exception as error:
        found.broken.append(f"not taken: {first_sentence(error)[:200]}")
        return found
    if not quick:
        _try_contracts(lm, found)
    try:
        try_kinds(lm, plain_runs(hf), found, quick)
    except Exception as error:
        found.broken.append(f"plain runs: {first_sentence(error)[:200]}")
    found.seconds = time.perf_counter() - start
    return found


def plain_runs(hf: Any) -> Plain:
    """Two prompts of 12 tokens that differ twice, once within the windows; none of them is a special token."""
    rng = random.Random(0)
    clean = [rng.randrange(5, census_models.VOCABULARY - 1) for _ in range(12)]
    corrupted = list(clean)
    for position in (3, 9):
        corrupted[position] = 5 + (clean[position] - 4) % (census_models.VOCABULARY - 6)
    return Plain(hf, clean, corrupted, 7, 31)


def _try_contracts(lm: Model, found: Verdict) -> None:
    try:
        outcomes = lm.check(strict=False)
    except Exception as error:
        found.broken.append(f"check: {first_sentence(error)[:200]}")
        return
    found.contracts = [one.number for one in outcomes if one.ok]
    found.broken += [f"contract {one.number} fails by {one.error:.2g}" for one in outcomes if not one.ok]


def try_kinds(lm: Model, plain: Plain, found: Verdict, quick: bool = False) -> None:
    """Every kind of unit against plain runs: exact effects, and attribution patching."""
    task = Task("census", (tuple(plain.clean[0].tolist()),), (tuple(plain.corrupted[0].tolist()),), ((7,),), ((31,),))
    layers = range(1, 2) if quick else range(len(plain.blocks))
    for kind in ("heads",) if quick else _kinds(lm):
        asked = list(islice(comparisons(plain, kind, layers), 1 if quick else None))
        if not asked:  # no block has such a part
            continue
        found.kinds[kind] = ""
        try:
            ours = _numbers(lm, task, asked)
        except Exception as error:
            found.kinds[kind] = first_sentence(error)
            if not isinstance(error, VeracausaError):
                found.broken.append(f"{kind}: {first_sentence(error)[:120]}")
            continue
        _compare(lm, plain, found, kind, asked, ours)


def _kinds(lm: Model) -> list[str]:
    """The kinds that a model may have: of a mixture of experts they and their neurons in the place of neurons."""
    mixtures = lm.decoder.mixtures.values()
    if not mixtures:
        return [*KINDS]
    shared = ("shared",) if any(one.has_shared for one in mixtures) else ()
    return [*(kind for kind in KINDS if kind != "neurons"), "experts", *shared, "routers", "expert_neurons"]


def _numbers(lm: Model, task: Task, asked: Sequence[Comparison]) -> list[float]:
    """What the library says of each unit; those of one sort in one call."""
    ours: dict[int, float] = {}
    sorts = {(how, "@" in name) for name, how, _ in asked}
    for how, placed in sorted(sorts):
        own = [i for i, (name, way, _) in enumerate(asked) if (way, "@" in name) == (how, placed)]
        ask = vc.exact if how == "exact" else partial(vc.attribute, method="atp")
        scores = ask(lm, task, units=[asked[i][0] for i in own], show_progress=False)  # type: ignore[operator]
        ours |= dict(zip(own, scores.values[0].tolist(), strict=True))
    return [ours[i] for i in range(len(asked))]


def _compare(
    lm: Model, plain: Plain, found: Verdict, kind: str, asked: Sequence[Comparison], ours: list[float]
) -> None:
    """Write down what plain runs do not confirm, and whether any could be made."""
    gap, allowed = abs(plain.gap), {torch.float64: 1e-8}.get(precision_of(lm.decoder).dtype, 1e-3)
    for (name, how, truth), number in zip(asked, ours, strict=True):
        true = number if truth is None else truth()
        if not abs(number - true) <= allowed * max(gap, abs(true), 1e-3):
            found.wrong.append(f"{how} {name}: {number:.6g}, plain run {true:.6g}")
            found.kinds[kind] = "WRONG"
            return
    if all(truth is None for *_, truth in asked):
        found.unseen.append(kind)


#: Name of a unit, "exact" or "atp", and the plain run's number: None where no plain run can be made of it.
Comparison = tuple[str, str, Callable[[], float] | None]


def comparisons(plain: Plain, kind: str, layers: Iterable[int]) -> Iterator[Comparison]:
    """What is asked of a kind of units in some blocks."""
    for layer in layers:
        yield from {"heads": _heads, "attention": _attention, "mixers": _mixers, "channels": _channels,
                    "mlps": _mlps, "neurons": _neurons, "residual": _residual, "edges": _edges, "experts": _experts,
                    "shared": _shared, "routers": _routers, "expert_neurons": _inside}[kind](plain, layer)  # fmt: skip


def _heads(plain: Plain, layer: int) -> Iterator[Comparison]:
    out, heads = plain.blocks[layer].head_out, plain.blocks[layer].heads
    if not plain.blocks[layer].attends:
        return
    if out is None:
        yield f"a{layer}.h1", "exact", None
        return
    for head in (0, heads - 1):
        yield f"a{layer}.h{head}", "exact", partial(plain.patched, out, "in", (..., _columns(out, head, heads)))
    yield f"a{layer}.h1", "atp", partial(plain.slope, out, "in", (..., _columns(out, 1, heads)))
    at = (slice(None), 9, _columns(out, 0, heads))
    yield f"a{layer}.h0@9", "exact", partial(plain.patched, out, "in", at)


def _attention(plain: Plain, layer: int) -> Iterator[Comparison]:
    out = plain.blocks[layer].head_out
    if not plain.blocks[layer].attends:
        return
    yield f"a{layer}", "exact", None if out is None else partial(plain.patched, out, "in")
    if out is not None:
        yield f"a{layer}", "atp", partial(plain.slope, out, "in")


def _mixers(plain: Plain, layer: int) -> Iterator[Comparison]:
    mixer = plain.blocks[layer].mixer
    if mixer is not None:
        yield f"x{layer}", "exact", partial(plain.patched, mixer, "out")
        yield f"x{layer}", "atp", partial(plain.slope, mixer, "out")
        yield f"x{layer}@9", "exact", partial(plain.patched, mixer, "out", (slice(None), 9))


def _channels(plain: Plain, layer: int) -> Iterator[Comparison]:
    out = plain.blocks[layer].mixer_out
    if out is not None:
        yield f"x{layer}.c5", "exact", partial(plain.patched, out, "in", (..., slice(5, 6)))
        yield f"x{layer}.c7", "atp", partial(plain.slope, out, "in", (..., slice(7, 8)))
        yield f"x{layer}.c6@9", "exact", partial(plain.patched, out, "in", (slice(None), 9, slice(6, 7)))


def _mlps(plain: Plain, layer: int) -> Iterator[Comparison]:
    mlp = plain.blocks[layer].mlp
    if not plain.blocks[layer].has_mlp:
        return
    yield f"m{layer}", "exact", None if mlp is None else partial(plain.patched, mlp, "out")
    if mlp is not None:
        yield f"m{layer}", "atp", partial(plain.slope, mlp, "out")


def _neurons(plain: Plain, layer: int) -> Iterator[Comparison]:
    down = plain.blocks[layer].down
    if not plain.blocks[layer].has_mlp:
        return
    yield f"m{layer}.n5", "exact", None if down is None else partial(plain.patched, down, "in", (..., slice(5, 6)))
    if down is not None:
        yield f"m{layer}.n7", "atp", partial(plain.slope, down, "in", (..., slice(7, 8)))


def _residual(plain: Plain, layer: int) -> Iterator[Comparison]:
    at = (slice(None), 9)
    yield f"r{layer}@9", "exact", partial(plain.patched, plain.blocks[layer].block, "in", at)
    yield f"r{layer}@9", "atp", partial(plain.slope, plain.blocks[layer].block, "in", at)


def _edges(plain: Plain, layer: int) -> Iterator[Comparison]:
    parts = plain.blocks[layer]
    out, mlp = parts.head_out, parts.mlp
    if parts.mixer_out is not None and plain.end is not None:
        name, where = f"x{layer}->logits", ()
        if parts.mixer_heads:
            name, where = f"x{layer}.h1->logits", (..., _columns(parts.mixer_out, 1, parts.mixer_heads))
        yield name, "exact", partial(plain.direct, layer, parts.mixer_out, "in", where, mlp)
    if not parts.has_mlp and (not parts.attends or parts.head_out is None):
        return
    if plain.end is None or (mlp is None and parts.has_mlp):
        yield f"m{layer}->logits", "exact", None
        return
    if mlp is not None:
        yield f"m{layer}->logits", "exact", partial(plain.direct, layer, mlp, "out", (), None)
    if (
        out is not None and parts.attends and (mlp is None or plain.heads_add_up(layer))
    ):  # else a head's write is a share of what a norm gives
        where = (..., _columns(out, 1, parts.heads))
        yield f"a{layer}.h1->logits", "exact", partial(plain.direct, layer, out, "in", where, mlp)


def _experts(plain: Plain, layer: int) -> Iterator[Comparison]:
    experts = plain.blocks[layer].experts
    if experts is None:
        return
    for expert in range(experts.num_experts):

        def change(expert: int = expert) -> Any:
            return plain.adds(experts, expert, plain.corrupted) - plain.adds(experts, expert, plain.clean)

        yield f"m{layer}.e{expert}", "exact", lambda change=change: plain.added(experts, change())
        yield f"m{layer}.e{expert}", "atp", lambda change=change: plain.added_slope(experts, change())


def _shared(plain: Plain, layer: int) -> Iterator[Comparison]:
    parts = plain.blocks[layer]
    if parts.experts is None or parts.mlp is None:
        return

    def change() -> Any:
        return plain.beside(layer, plain.corrupted) - plain.beside(layer, plain.clean)

    yield f"m{layer}.shared", "exact", lambda: plain.added(parts.mlp, change())
    yield f"m{layer}.shared", "atp", lambda: plain.added_slope(parts.mlp, change())


def _routers(plain: Plain, layer: int) -> Iterator[Comparison]:
    if (router := plain.blocks[layer].router) is not None:
        yield f"m{layer}.router", "exact", partial(plain.rerouted, router)
        yield f"m{layer}.router", "atp", partial(plain.rerouted_slope, router)


def _inside(plain: Plain, layer: int) -> Iterator[Comparison]:
    experts = plain.blocks[layer].experts
    if experts is None:
        return
    for expert in range(experts.num_experts):
        change = partial(plain.inside, experts, expert, 5)
        yield f"m{layer}.e{expert}.n5", "exact", lambda change=change: plain.added(experts, change())
        yield f"m{layer}.e{expert}.n5", "atp", lambda change=change: plain.added_slope(experts, change())


def _columns(out: Any, head: int, heads: int) -> slice:
    """A head's columns of what the output projection reads."""
    size = max(out.weight.shape) if not hasattr(out, "in_features") else out.in_features
    inputs = getattr(out, "nx", None) or size
    dim = int(inputs) // heads
    return slice(head * dim, (head + 1) * dim)


def run(kinds: Sequence[Type], jobs: int = 1, quick: bool = False) -> Iterator[Verdict]:
    """Verdicts in the order of `kinds`."""
    one = partial(verdict, quick=quick)
    if jobs == 1:
        _prepare(quick)
        yield from map(one, kinds)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_prepare, initargs=(quick,)) as pool:
        yield from pool.map(one, kinds)


def _prepare(quick: bool) -> None:
    """No warnings, one thread; families compute in float64 but for a `quick` look, which takes them as they are."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    if not quick:
        census_models.compute_in_float64()


def main() -> int:
    """Print a line for every type; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="types, such as phi olmo2")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--quick", action="store_true", help="one head alone, and no contracts")
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="put the table into this page, such as docs/families.md"
    )
    options = parser.parse_args()
    if options.write and options.quick:
        parser.error("--write is for what is tried in full: leave --quick out")
    if options.write and not (options.write.is_file() and census_page.BEGIN in options.write.read_text("utf-8")):
        parser.error(f"{options.write} is no page with the mark {census_page.BEGIN}, where the table goes")
    every = census_models.types()
    known = {kind.name for kind in every}
    if unknown := sorted(set(options.only or ()) - known):
        parser.error(f"transformers {transformers.__version__} has no causal language model of type {unknown[0]}")
    chosen = [kind for kind in every if not options.only or kind.name in options.only]
    found = []
    for one in run(chosen, options.jobs, options.quick):
        print(one, flush=True)
        found.append(one)
    counts = Counter(one.word for one in found)
    if options.write:
        census_page.write(options.write, found, [str(kind) for kind in every] if options.only else ())
    print(f"\n{len(chosen)} structures: " + ", ".join(f"{n} {word}" for word, n in sorted(counts.items())))
    return int("WRONG" in counts)


if __name__ == "__main__":
    sys.exit(main())
