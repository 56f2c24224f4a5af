"""What parts of dictionaries are replaced by, where it is the same for all units of a site; and which of them stay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from veracausa.dictionaries.words import is_coded
from veracausa.effects.replacements import Counterfactual, Multiple, Replacement, Zero
from veracausa.engine.patches import Place, activation
from veracausa.engine.tape import State, Tape

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.anatomy import Decoder
    from veracausa.units.table import Units


def shared_site(
    source: Replacement, tape: Tape, place: Place, layer: int
) -> Float[torch.Tensor, "examples positions site"] | None:
    """Replacements of a whole site, example by example, where they do not depend on the unit; else None."""
    if isinstance(source, Counterfactual):
        return activation(source.state(tape), place, layer)
    if isinstance(source, Multiple):
        return source.factor * activation(tape.clean, place, layer)
    return torch.zeros_like(activation(tape.clean, place, layer)) if isinstance(source, Zero) else None


def still_units(
    decoder: Decoder, source: Replacement, tape: Tape, base: State, units: Units
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(units, [examples, units]): features that are what replaces them already, wherever the unit is.

    Their effect is 0, and nothing of them is run: most features of a dictionary are 0 in both runs.
    """
    for layer in np.unique(units.layer).tolist() if is_coded(units.place) and not units.joint else []:
        new = shared_site(source, tape, units.place, layer)
        if new is None:
            continue
        code, own = decoder.codes[units.place, layer], np.flatnonzero(units.layer == layer)
        parts, position = code.parts(units.index[own]), units.position[own] - tape.start
        same = code.still(new, activation(base, units.place, layer)).cpu().numpy()
        here = (position >= 0) & (position < same.shape[1])
        alone = same[:, np.where(here, position, 0), parts] & here
        everywhere = np.asarray(same.all(1))[:, parts]
        yield own, np.where(units.position[own] < 0, everywhere, alone)
