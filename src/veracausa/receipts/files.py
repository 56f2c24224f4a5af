"""Files of receipts: safetensors with a JSON header, whole or absent."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np

from veracausa.receipts.receipts import FORMAT, Receipt
from veracausa.receipts.stages import Outcome, Until
from veracausa.scores.files import unpack_scores
from veracausa.scores.scores import Scores
from veracausa.storage.files import at, read_tensors
from veracausa.storage.schema import many, maybe, number, reading, record, require_tensors, whole

_OUTCOME = record(top=whole(), sample=whole(), alpha=number(0, 1), found=whole(), strong=whole(), missed=whole())
_HEADER = record(
    tau=number(1e-12),
    seed=whole(),
    whole=number(1e-12),
    budget=maybe(number(0, 1)),
    until=maybe(record(missed=whole(), tau=number(1e-12), confidence=number(0, 1))),
    outcomes=many(_OUTCOME, least=1),
)


def load_receipt(path: str | Path) -> Receipt:
    """Read a receipt that `Receipt.save` wrote.

    Raises:
        FileError: no such file, damaged, or not a receipt.

    >>> vc.open("receipt.safetensors").missed
    """
    header, tensors = read_tensors(path, FORMAT)
    with reading(at(path)):
        estimate, exact = (
            unpack_scores(
                header[name],
                {key.partition(".")[2]: tensors[key] for key in tensors if key.startswith(f"{name}.")},
                at(path),
            )
            for name in ("estimate", "exact")
        )
        found = _HEADER(header)
        require_tensors(tensors, {"top": "index top", "drawn": "index drawn"})
        top, drawn = tensors["top"].numpy(), tensors["drawn"].numpy()
        _require_checked(estimate, exact, np.concatenate([top, drawn]))
        return Receipt(
            estimate=estimate,
            exact=exact,
            top=top,
            drawn=drawn,
            outcomes=tuple(Outcome(**{f.name: one[f.name] for f in fields(Outcome)}) for one in found["outcomes"]),
            until=Until(**found["until"]) if found["until"] else None,
            **{name: found[name] for name in ("tau", "seed", "whole", "budget")},
        )


def _require_checked(estimate: Scores, exact: Scores, checked: np.ndarray) -> None:
    """Raise ValueError unless the exact effects are those of the checked units of the estimate, each once."""
    if len(checked) != len(set(checked.tolist())) or (checked < 0).any() or (checked >= len(estimate)).any():
        raise ValueError("units were checked that the estimate has not, or twice")
    if exact.n != estimate.n or exact.units.keys != estimate.units[np.sort(checked)].keys:
        raise ValueError("the exact effects are not those of the checked units")
