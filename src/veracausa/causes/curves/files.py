"""Files of responses: safetensors with a JSON header, whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from veracausa.causes.curves.responses import _FORMAT, _TENSORS, Responses
from veracausa.scores.estimands import TWO_ABLATIONS
from veracausa.scores.files import unpack_units
from veracausa.storage.files import at, read_tensors
from veracausa.storage.schema import MODEL, TASK, cost, many, number, one_of, reading, record, require_tensors, whole

_HEADER = record(
    layers=many(whole()), alphas=many(number(), least=2), model=MODEL, task=TASK, cost=cost,
    ablation=one_of(*TWO_ABLATIONS),
)  # fmt: skip


def load_responses(path: str | Path) -> Responses:
    """Read responses that `Responses.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.

    >>> vc.open("responses.safetensors")["a20.h0"].turns
    """
    header, tensors = read_tensors(path, _FORMAT)
    with reading(at(path)):
        found = _HEADER(header)
        tensors["position"] = torch.full_like(tensors["layer"], -1)
        units = unpack_units(header["kind"], tensors)
        wanted = {
            "own": "finite units alphas examples",
            "sites": "finite layers alphas examples",
            "slopes": "finite units examples",
            "site_slopes": "finite layers examples",
            "clean": "finite examples",
            "corrupted": "finite examples",
        }
        alphas, layers = found["alphas"], found["layers"]
        require_tensors(tensors, wanted, units=len(units), alphas=len(alphas), layers=len(layers))
        if not {0.0, 1.0} <= set(alphas) or list(alphas) != sorted(set(alphas)):
            raise ValueError("its alphas do not rise, or lack 0 or 1")
        if layers and set(layers) != set(units.layer.tolist()):
            raise ValueError("its sites are not those of its units")
        parts: dict[str, Any] = {name: tensors[name] for name in _TENSORS}
        parts |= {name: found[name] for name in ("model", "task", "cost", "ablation")}
        return Responses(
            units,
            layers,
            np.array(alphas),
            **parts,
        )
