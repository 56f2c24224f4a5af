"""Files of ablation studies and of what foretold them: safetensors with a JSON header, whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.behaviour import foretold
from veracausa.behaviour.chosen import UNABLATED, Condition
from veracausa.behaviour.foretold import Against, Forecast
from veracausa.behaviour.results import _FORMAT
from veracausa.storage.files import at, read_tensors
from veracausa.storage.schema import (
    MODEL,
    TASK,
    cost,
    flag,
    many,
    number,
    reading,
    record,
    require_tensors,
    text,
    whole,
)

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


_FIGURE = number(nan=True)
_FORECAST = record(
    method=text, signed=flag, forecast=whole(), hits=whole(),
    **dict.fromkeys(("r", "spearman", "precision", "recall", "average_precision"), _FIGURE),
)  # fmt: skip
_AGAINST = record(
    names=many(text, least=2), ablation=text, rule=text, n=whole(1), alpha=number(0, 1), model=MODEL, task=TASK,
    settings=record(), forecasts=many(_FORECAST, least=1),
)  # fmt: skip


def load_against(path: str | Path) -> Against:
    """Read what `Against.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    header, tensors = read_tensors(path, foretold.FORMAT)
    with reading(at(path)):
        found = _AGAINST(header)
        wanted = {"change": "finite units", "stderr": "float units", "changed": "flag units"}
        wanted |= {"scores": "finite methods units"}
        require_tensors(tensors, wanted, units=len(found["names"]), methods=len(found["forecasts"]))
        forecasts = tuple(
            Forecast(score=score, **{name: one[name] for name in foretold.FIGURES})
            for one, score in zip(found["forecasts"], tensors["scores"].numpy(), strict=True)
        )
        parts: dict[str, Any] = {name: found[name] for name in foretold.PLAIN}
        parts |= {name: tensors[name].numpy() for name in ("change", "stderr")}
        return Against(changed=tensors["changed"].bool().numpy(), forecasts=forecasts, **parts)
