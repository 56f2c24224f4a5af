"""A single evaluation in a file of its own, read again: safetensors with a JSON header, whole or absent."""

from __future__ import annotations

from pathlib import Path

from veracausa.circuits.attacks.files import unpack_attack
from veracausa.circuits.quality.files import unpack_curve, unpack_runs
from veracausa.discovery.evaluation import (
    ATTACK,
    CIRCUIT,
    CURVE,
    FORMAT,
    PARTS,
    RANDOM,
    RANDOM_CURVE,
    Evaluation,
    of_task,
)
from veracausa.storage.files import at, read_tensors
from veracausa.storage.schema import reading, text, whole
from veracausa.tasks.task_files import task_of


def load_evaluation(path: str | Path) -> Evaluation:
    """Read what `Evaluation.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    header, tensors = read_tensors(path, FORMAT)
    path = at(path)
    own = {
        name: {key.partition("/")[2]: one for key, one in tensors.items() if key.startswith(f"{name}/")}
        for name in PARTS
    }
    with reading(path):
        task, seen = task_of(header["pairs"], path), header["seen"]
        return Evaluation(
            text(header["name"]),
            task,
            whole(0, len(task))(seen),
            of_task(unpack_runs(header[CIRCUIT], own[CIRCUIT], path)[0], task, path),
            of_task(unpack_curve(header[CURVE], own[CURVE], path), task, path),
            of_task(unpack_runs(header[RANDOM], own[RANDOM], path)[0], task, path),
            of_task(unpack_curve(header[RANDOM_CURVE], own[RANDOM_CURVE], path), task, path),
            of_task(unpack_attack(header[ATTACK], own[ATTACK], path), task, path) if ATTACK in header else None,
        )
