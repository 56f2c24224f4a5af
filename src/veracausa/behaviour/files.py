"""Files of ablation studies: safetensors with a JSON header, whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from veracausa.behaviour.chosen import Condition
from veracausa.engine.cost import Cost
from veracausa.errors import FileError
from veracausa.storage.files import read_tensors, write_tensors

if TYPE_CHECKING:
    from veracausa.behaviour.results import AblationStudy

_FORMAT = "veracausa-ablation-study-1"


def save_study(study: AblationStudy, path: str | Path) -> Path:
    """See `AblationStudy.save`."""
    header = {
        "conditions": [[list(one.units), one.ablation] for one in study.conditions],
        "alpha": study.alpha,
        "settings": study.settings,
        "model": study.model,
        "task": study.task,
        "cost": study.cost.to_dict(),
    }
    tensors = {"metric": study.metric, "tokens": study.tokens, "right": study.right.to(torch.uint8)}
    return write_tensors(path, _FORMAT, header, tensors)


def load_ablation_study(path: str | Path) -> AblationStudy:
    """Read an ablation study that `AblationStudy.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.

    >>> vc.load_ablation_study("ablation.safetensors").table()
    """
    from veracausa.behaviour.results import AblationStudy

    header, tensors = read_tensors(path, _FORMAT)
    try:
        conditions = tuple(Condition(tuple(units), ablation) for units, ablation in header["conditions"])
        study = AblationStudy(
            conditions=conditions,
            metric=tensors["metric"],
            tokens=tensors["tokens"],
            right=tensors["right"].bool(),
            alpha=header["alpha"],
            settings=header["settings"],
            model=header["model"],
            task=header["task"],
            cost=Cost.from_dict(header["cost"]),
        )
    except KeyError as error:
        raise FileError(f"{path} lacks {error}: it was not written by this version of veracausa.") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise FileError(f"{path} does not hold together ({error}): it was not written by veracausa.") from error
    wanted = (len(conditions), study.n)
    if study.metric.shape != wanted or study.right.shape != wanted or study.tokens.shape[:2] != wanted:
        raise FileError(
            f"{path} does not hold together: its tensors are not {wanted[0]} conditions × {wanted[1]} pairs."
        )
    return study
