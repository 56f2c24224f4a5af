"""Files of ablation studies: safetensors with a JSON header, whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from veracausa.behaviour.chosen import UNABLATED, Condition
from veracausa.behaviour.results import _FORMAT
from veracausa.storage.files import at, read_tensors
from veracausa.storage.schema import MODEL, TASK, cost, many, number, reading, record, require_tensors, text

if TYPE_CHECKING:
    from veracausa.behaviour.results import AblationStudy

_HEADER = record(alpha=number(0, 1), settings=record(ablations=many(text, least=1)), model=MODEL, task=TASK, cost=cost)


def load_ablation_study(path: str | Path) -> AblationStudy:
    """Read an ablation study that `AblationStudy.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.

    >>> vc.open("ablation.safetensors").table()
    """
    from veracausa.behaviour.results import AblationStudy

    header, tensors = read_tensors(path, _FORMAT)
    with reading(at(path)):
        found = _HEADER(header)
        conditions = tuple(Condition(many(text)(units), text(name)) for units, name in header["conditions"])
        wanted = {"metric": "finite conditions prompts", "right": "flag conditions prompts"}
        wanted |= {"tokens": "index conditions prompts new"}
        require_tensors(tensors, wanted, conditions=len(conditions))
        if not conditions or conditions[0] != UNABLATED or not all(one.units for one in conditions[1:]):
            raise ValueError("its first condition is not the unablated model, or another has no units")
        if {one.ablation for one in conditions[1:]} != set(found["settings"]["ablations"]):
            raise ValueError("its conditions are not those of its ablations")
        return AblationStudy(
            conditions=conditions,
            metric=tensors["metric"],
            tokens=tensors["tokens"],
            right=tensors["right"].bool(),
            settings=header["settings"],
            **{name: found[name] for name in ("alpha", "model", "task", "cost")},
        )
