"""Files of what circuits' runs gave, pair by pair: safetensors with a JSON header, whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from veracausa.circuits.quality import completeness, curve, faithfulness, hypotheses, minimality
from veracausa.circuits.quality.completeness import Completeness
from veracausa.circuits.quality.curve import Curve
from veracausa.circuits.quality.faithfulness import Faithfulness
from veracausa.circuits.quality.hypotheses import CircuitTests, Verdict
from veracausa.circuits.quality.minimality import Minimality
from veracausa.storage.files import at, read_tensors
from veracausa.storage.schema import (
    MODEL,
    TASK,
    cost,
    flag,
    many,
    maybe,
    number,
    one_of,
    reading,
    record,
    require_tensors,
    text,
    whole,
)
from veracausa.tasks.measurement import Measurement

_ABOUT: dict[str, Any] = {"model": MODEL, "task": TASK, "cost": cost, "settings": record(ablation=text)}
_RUNS = record(edges=many(whole(), least=1), share=many(number(0, 1)), notes=many(text), **_ABOUT)
_SETS = record(
    nodes=many(text, least=1), how=many(one_of("none", "random", "greedy"), least=1), sets=many(many(text)), **_ABOUT
)
_LOSSES = record(parts=one_of("edges", "nodes"), names=many(text, least=1), of=whole(1), **_ABOUT)
_VERDICT = record(
    test=text, null=text, seen=text, p=number(0, 1), rejected=flag, holds=maybe(flag), meaning=text
)  # fmt: skip
_TESTS = record(
    verdicts=many(_VERDICT, 4), alpha=number(0, 1), pairs=whole(1), size=whole(1), edges=many(text, least=1),
    f=number(), idle_p=number(0, 1), **_ABOUT,
)  # fmt: skip
_ENDS = dict.fromkeys(("clean", "corrupted"), "finite pairs")


def load_faithfulness(path: str | Path) -> Faithfulness:
    """Read what `Faithfulness.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    return unpack_runs(*read_tensors(path, faithfulness.FORMAT), at(path))[0]


def load_curve(path: str | Path) -> Curve:
    """Read what `Curve.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    return unpack_curve(*read_tensors(path, curve.FORMAT), at(path))


def load_completeness(path: str | Path) -> Completeness:
    """Read what `Completeness.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    header, tensors = read_tensors(path, completeness.FORMAT)
    with reading(at(path)):
        told = _SETS(header)
        wanted = dict.fromkeys(("full", "circuit"), "finite sets pairs") | _ENDS
        require_tensors(tensors, wanted, sets=len(told["sets"]))
        if len(told["how"]) != len(told["sets"]) or "random" not in told["how"]:
            raise ValueError("its sets are not those of its ways to make them")
        parts = {name: told[name] for name in ("nodes", "how", "sets")}
        parts |= {"full": tensors["full"], "circuit": tensors["circuit"], "measured": _ends(tensors)}
        return Completeness(**parts, **_about(told))


def load_minimality(path: str | Path) -> Minimality:
    """Read what `Minimality.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    header, tensors = read_tensors(path, minimality.FORMAT)
    with reading(at(path)):
        told = _LOSSES(header)
        wanted = {"loss": "finite pairs parts", "metric": "finite pairs"} | _ENDS
        require_tensors(tensors, wanted, parts=len(told["names"]))
        parts = {name: told[name] for name in ("parts", "names", "of")}
        parts |= {"loss": tensors["loss"], "metric": tensors["metric"], "measured": _ends(tensors)}
        return Minimality(**parts, **_about(told))


def load_tests(path: str | Path) -> CircuitTests:
    """Read what `CircuitTests.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    header, tensors = read_tensors(path, hypotheses.FORMAT)
    with reading(at(path)):
        told = _TESTS(header)
        wanted = {"effect": "finite edges", "beaten": "index edges", "corrected": "finite edges"}
        wanted |= dict.fromkeys(("random_effect", "random_f"), "finite draws")
        require_tensors(tensors, wanted, edges=len(told["edges"]))
        parts: dict[str, Any] = {name: told[name] for name in hypotheses.PLAIN}
        parts |= {name: tensors[name].numpy() for name in hypotheses.ARRAYS}
        return CircuitTests(tuple(_verdict(one) for one in told["verdicts"]), cost=told["cost"], **parts)


def unpack_curve(header: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> Curve:
    """What `pack_curve` packed; `path` is for messages.

    Raises:
        FileError: something is missing, out of range, or does not fit together.
    """
    found = unpack_runs(header, tensors, path)
    with reading(path):
        sizes = many(number(0, 1), least=1)(header["sizes"])
        if list(sizes) != sorted(set(sizes)) or len(found) != 2 * len(sizes):
            raise ValueError(f"{len(found)} circuits for {len(sizes)} rising sizes, twice")
        living = {name: many(whole(), len(sizes))(header["living"][name]) for name in ("signed", "abs")}
        return Curve(text(header["method"]), sizes, found[: len(sizes)], found[len(sizes) :], living)


def unpack_runs(header: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> tuple[Faithfulness, ...]:
    """What `pack_runs` packed; `path` is for messages.

    Raises:
        FileError: something is missing, out of range, or does not fit together.
    """
    with reading(path):
        told = _RUNS(header)
        wanted = dict.fromkeys(("metric", "kl"), "finite circuits pairs") | _ENDS
        if not require_tensors(tensors, wanted, circuits=len(told["edges"]))["pairs"]:
            raise ValueError("it has no pairs")
        rows = zip(told["edges"], told["share"], tensors["metric"], tensors["kl"], strict=True)
        ends, about = _ends(tensors), _about(told) | {"notes": told["notes"]}
        return tuple(Faithfulness(*row, ends, **about) for row in rows)


def _about(told: dict[str, Any]) -> dict[str, Any]:
    return {name: told[name] for name in _ABOUT}


def _ends(tensors: dict[str, Tensor]) -> Measurement:
    return Measurement(tensors["clean"], tensors["corrupted"])


def _verdict(told: dict[str, Any]) -> Verdict:
    return Verdict(*(told[name] for name in ("test", "null", "seen", "p", "rejected", "holds", "meaning")))
