"""Files of responses: safetensors with a JSON header, whole or absent."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from veracausa.attribution.responses import Responses
from veracausa.attribution.units import KINDS, Units
from veracausa.engine.cost import Cost
from veracausa.errors import FileError
from veracausa.storage.files import read_tensors, write_tensors

_FORMAT = "veracausa-responses-1"
_TENSORS = ("own", "sites", "slopes", "site_slopes", "clean", "corrupted")


def save_responses(found: Responses, path: str | Path) -> Path:
    """See `Responses.save`."""
    tensors: dict[str, Tensor] = {name: getattr(found, name) for name in _TENSORS}
    tensors |= {name: torch.from_numpy(getattr(found.units, name).astype("int64")) for name in ("layer", "index")}
    header = {
        "kind": found.units.kind,
        "layers": found.layers,
        "alphas": found.alphas.tolist(),
        "model": found.model,
        "task": found.task,
        "cost": found.cost.to_dict(),
    }
    return write_tensors(path, _FORMAT, header, tensors)


def load_responses(path: str | Path) -> Responses:
    """Read responses that `Responses.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.

    >>> vc.load_responses("responses.safetensors")["a20.h0"].turns
    """
    import numpy as np

    path = Path(path)
    header, tensors = read_tensors(path, _FORMAT)
    try:
        if header["kind"] not in KINDS:
            raise FileError(f"{path} holds {header['kind']!r}, which this version does not know.")
        layer, index = tensors["layer"].numpy(), tensors["index"].numpy()
        found = Responses(
            Units(header["kind"], layer, index, np.full(len(layer), -1)),
            tuple(header["layers"]),
            np.array(header["alphas"]),
            **{name: tensors[name] for name in _TENSORS},
            model=header["model"],
            task=header["task"],
            cost=Cost.from_dict(header["cost"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} lacks {error}: it was not written by this version of veracausa.") from error
    shape = (len(found.alphas), len(found.clean))
    if found.own.shape != (len(found.units), *shape) or found.sites.shape != (len(found.layers), *shape):
        raise FileError(f"{path} does not hold together: its curves are not of its units and points.")
    return found
