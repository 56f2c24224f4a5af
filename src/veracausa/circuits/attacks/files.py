"""Files of attacks: safetensors with a JSON header, whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from veracausa.circuits.attacks.attack import FORMAT, Attack, Attempt
from veracausa.circuits.attacks.budgets import BUDGETS
from veracausa.storage.files import at, read_tensors
from veracausa.storage.schema import (
    MODEL,
    TASK,
    cost,
    flag,
    many,
    number,
    one_of,
    reading,
    record,
    require_tensors,
    text,
    whole,
)
from veracausa.tasks.measurement import Measurement

_ATTEMPT = record(
    circuit=whole(), budget=one_of("none", *BUDGETS), amount=number(0), by=text, way=one_of("", "up", "down"), each=flag
)
_HEADER = record(
    circuits=many(text, least=1), parts=one_of("edges", "nodes"), kept=many(whole(), least=1), notes=many(text),
    others=many(whole(), least=1), attempts=many(_ATTEMPT, least=1), model=MODEL, task=TASK, cost=cost,
    settings=record(ablation=text, seed=whole()),
)  # fmt: skip


def load_attack(path: str | Path) -> Attack:
    """Read what `Attack.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    return unpack_attack(*read_tensors(path, FORMAT), at(path))


def unpack_attack(header: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> Attack:
    """What `pack_attack` packed; `path` is for messages.

    Raises:
        FileError: something is missing, out of range, or does not fit together.
    """
    with reading(path):
        told = _HEADER(header)
        attempts = tuple(Attempt(**one) for one in told["attempts"])
        wanted = {"metric": "finite attempts pairs", "clean": "finite pairs", "corrupted": "finite pairs"}
        wanted |= {"held": "float attempts held", "held_clean": "finite held", "held_corrupted": "finite held"}
        require_tensors(tensors, wanted, attempts=len(attempts))
        _require_whole(told, attempts)
        ends = (Measurement(tensors[f"{of}clean"], tensors[f"{of}corrupted"]) for of in ("", "held_"))
        parts: dict[str, Any] = {name: told[name] for name in _PLAIN}
        parts |= dict(zip(("measured", "held_measured"), ends, strict=True))
        return Attack(attempts=attempts, metric=tensors["metric"], held=tensors["held"], **parts)


_PLAIN = ("circuits", "parts", "kept", "others", "model", "task", "cost", "settings", "notes")


def _require_whole(told: dict[str, Any], attempts: tuple[Attempt, ...]) -> None:
    """ValueError unless every circuit has its size and its own run, and every attempt its circuit."""
    count = len(told["circuits"])
    if {len(told["kept"]), len(told["others"])} != {count} or any(one.circuit >= count for one in attempts):
        raise ValueError(f"its attempts are not about its {count} circuits")
    if any(Attempt(number) not in attempts for number in range(count)):
        raise ValueError("the own run of a circuit is missing")
