"""A cut made for good: an ordinary checkpoint, its tokenizer, and a receipt of what was cut and what that saves."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.engine.guard import borrowed
from veracausa.engine.identity import difference
from veracausa.errors import ContractError, FileError, MethodError
from veracausa.model import Model
from veracausa.pruning.cutting import cut_of, cut_out
from veracausa.pruning.exported import TIMES, TOKENS, Exported
from veracausa.pruning.pruned import Pruned
from veracausa.pruning.smaller import Kept, smaller
from veracausa.storage.files import make_folder, write_json
from veracausa.typed import require

if TYPE_CHECKING:
    from jaxtyping import Int


RECEIPT = "veracausa-pruned.json"
#: Largest difference of logits, as a share of the largest, by the bits of the weights.
_OFF = {64: 1e-4, 32: 1e-4, 16: 5e-2}


def export(found: Pruned, lm: Model, folder: str | Path) -> Exported:
    """Write the model without its parts as an ordinary checkpoint (public as `Pruned.export`).

    Raises:
        MethodError: another model than the one that was pruned. ArchitectureError: see `shapes`. ContractError: the
            checkpoint's logits are others than those of the model without the parts; nothing is written.
        FileError: the folder holds something, or cannot be written.
    """
    _require_same(found, lm)
    folder = require_new(folder)
    cut = cut_of(lm, found.parts, found.chosen)
    constants = {place: value.to(lm.device) for place, value in found.constants.items()}
    made, kept = smaller(lm, cut, constants)
    ids = _ids(lm)
    with cut_out(lm, cut, constants):
        expected = _logits(lm.hf, lm, ids)
    off = float((_logits(made, lm, ids) - expected).abs().max() / expected.abs().max())
    if not off <= _OFF[torch.finfo(lm.dtype).bits]:
        raise ContractError(
            f"The smaller model's logits are off by {off:.2g} of the largest from those of the model without the "
            "parts, so nothing is written. Please report this with the model's config."
        )
    seconds = _seconds(lm.hf, lm, ids), _seconds(made, lm, ids)
    done = _exported(found, folder, made, kept, seconds, off)
    _write(found, done, made, lm)
    return done


def require_new(folder: str | Path) -> Path:
    """The folder of a checkpoint; FileError where it holds something, or cannot be written."""
    folder = make_folder(folder)
    if os.listdir(folder):
        raise FileError(f"{folder} is not empty. Name a new folder for the checkpoint.")
    return folder


def _require_same(found: Pruned, lm: Model) -> None:
    require(lm, "Model", "Pruned.export: lm", {"Model": Model})
    if differing := difference(found.model["identity"], lm.identity):
        raise MethodError(
            f"{found.model['source']} was pruned, but this model, {lm.source}, now has other {differing}. Export the "
            "one that was pruned."
        )


def _exported(found: Pruned, folder: Path, made: Any, kept: Kept, seconds: tuple[float, float], off: float) -> Exported:
    after = sum(one.numel() for one in made.parameters())
    padded = max(0, after - (found.parts.whole - found.saved))
    return Exported(folder, found.parts.whole, after, padded, kept.counts, seconds, off)


def _write(found: Pruned, done: Exported, made: Any, lm: Model) -> None:
    """The checkpoint, its tokenizer, and the receipt, which is last."""
    body = {
        "format": "veracausa-pruned-checkpoint-1", "model": found.model, "cut": found.cut, "counts": done.counts,
        "parameters": [done.before, done.after], "padded": done.padded, "seconds": list(done.seconds), "off": done.off,
        "rankings": list(found.rankings), "share": found.share, "settings": found.settings,
        "sentences": list(found.sentences), "kinds": list(found.parts.kinds),
    }  # fmt: skip
    try:
        made.save_pretrained(done.folder)
        if lm.tokenizer is not None:
            lm.tokenizer.save_pretrained(done.folder)
    except OSError as error:
        raise FileError(f"The checkpoint could not be written to {done.folder}: {error}") from error
    write_json(done.folder / RECEIPT, body)


def _ids(lm: Model) -> Int[Tensor, "rows tokens"]:
    """Random tokens, the same each time."""
    vocabulary = int(lm.decoder.embeddings.weight.shape[0])  # type: ignore[index]
    length = min(TOKENS[1], int(getattr(lm.hf.config, "max_position_embeddings", None) or TOKENS[1]))
    drawn = torch.randint(vocabulary, (TOKENS[0], length), generator=torch.Generator().manual_seed(0))
    return drawn.to(lm.device)


def _logits(hf: Any, lm: Model, ids: Tensor) -> Tensor:
    with borrowed(lm.decoder), torch.no_grad():
        found: Tensor = hf(ids, use_cache=False).logits
        return found.to(torch.promote_types(found.dtype, torch.float32))


def _seconds(hf: Any, lm: Model, ids: Tensor) -> float:
    """The best of a few runs; a GPU has finished when the logits are read."""
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        _logits(hf, lm, ids).sum().item()
        taken.append(time.perf_counter() - began)
    return min(taken)
