"""Contract 14: finished pieces are given out only to the model that made them.

A call keeps its pieces in a folder and is asked again: as it is, and with a hook that halves what one MLP adds. The
judge of the second is the same call without a folder.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.contracts.chosen import end_units, names
from veracausa.effects.exact import exact
from veracausa.engine.guard import hooks
from veracausa.errors import FileError

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


def kept_pieces_belong_to_their_model(lm: Model, task: Task) -> float:
    """How many of these fail: a call leaves the model's identity; a hook changes it, and then no old number comes back;
    without the hook the identity and the numbers are the old ones."""
    units = names(end_units(lm)[-1][-1:])
    first = lm.decoder.blocks[0]

    def asked(folder: str | None) -> Tensor:
        return exact(lm, task[0], units=units, out=folder and Path(folder), show_progress=False).values

    with TemporaryDirectory() as folder:
        before, kept = lm.identity, asked(folder)
        failed = [lm.identity != before, not torch.equal(asked(folder), kept)]
        with hooks((first.mlp_end if first.has_mlp else first.attention_out).register_forward_hook(_halved)):
            fresh = asked(None)
            try:
                failed += [lm.identity == before, not torch.equal(asked(folder), fresh)]
            except FileError:  # found by its metric, and refused in words; but its identity should have said so
                failed += [True, False]
        failed += [lm.identity != before, not torch.equal(asked(folder), kept)]
    return float(sum(failed))


def _halved(_: Any, __: Any, output: Any) -> Any:
    return (0.5 * output[0], *output[1:]) if isinstance(output, tuple) else 0.5 * output


_halved.__module__ = "a user's"  # the library's own hooks are no part of a model
