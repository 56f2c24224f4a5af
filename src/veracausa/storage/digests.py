"""Digests: what two files, tensors or sets of weights are told apart by, down to the last bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.placed import stored

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


#: Where a tensor lies, what it is and how often it was written to → itself (its place stays its own so), its digest.
Read = dict[tuple[Any, ...], tuple[Any, bytes]]


def weights_digest(model: nn.Module, known: Read | None = None) -> str:
    """A short hash of all parameters and saved buffers: names, shapes, types and every bit of every value.

    Each tensor's bytes are read as 64-bit words w and cut into pieces of 4,096; a piece contributes Σᵢ aᵢ·wᵢ and
    Σᵢ aᵢ·⌊wᵢ/2³²⌋ mod 2⁶⁴ with fixed odd weights aᵢ (multilinear hashes; the second one because products mod 2⁶⁴ are
    weak in the high bits, where the signs are), and SHA-256 runs over the sums. Integer arithmetic makes it exact: it
    does not depend on the device, the number of threads or the order of summation.
    It takes a fraction of a second a gigabyte, where SHA-256 over the bytes themselves takes a second or more.
    `known`: tensors that were read before, which are not read again unless they were written to since (through their
    `.data` torch does not count that, so nothing is known for longer than a call takes); what is read is added.

    Example:
        >>> weights_digest(torch.nn.Linear(2, 2)) == weights_digest(torch.nn.Linear(2, 2))
        False
    """
    import torch

    digest = hashlib.sha256()
    seen: Read = {} if known is None else known
    with torch.no_grad():
        for name, tensor in (one for item in stored(model) for one in _plain(*item)):
            # Tied tensors (embedding and unembedding) are read once.
            written = None if tensor.is_inference() else tensor._version
            place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, written)
            if place not in seen:
                seen[place] = tensor, tensor_digest(tensor.detach())
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(seen[place][1])
    return digest.hexdigest()[:16]


def _plain(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The plain tensors that a saved value is made of: itself, or those in a tensor that packs others."""
    import torch

    if hasattr(value, "__tensor_flatten__"):
        for inner in value.__tensor_flatten__()[0]:
            yield from _plain(f"{name}.{inner}", getattr(value, inner))
    elif isinstance(value, torch.Tensor):
        yield name, value


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's values as one row of bytes, without a copy where they lie so already."""
    import torch

    flat = tensor.contiguous().reshape(-1)
    if flat.stride(0) != 1:  # a single value counts as contiguous wherever it was cut out
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8)


def tensor_digest(tensor: torch.Tensor) -> bytes:
    """SHA-256 over the multilinear hashes of a tensor's pieces and its odd last bytes."""
    import torch

    piece = 4096
    data = bytes_of(tensor)
    whole = data.numel() // (8 * piece) * (8 * piece)
    digest = hashlib.sha256(data[whole:].cpu().numpy().tobytes())
    if not whole:
        return digest.digest()
    # Multiples of the golden ratio's 64-bit fraction, mixed and made odd: well spread, the same on every platform.
    weights = torch.arange(1, piece + 1, dtype=torch.int64) * -7046029254386353131
    weights = (weights ^ (weights >> 29)) | 1
    if data.data_ptr() % 8:  # a slice of a larger storage may start off the grid of words
        data = data.clone()
    on_cpu = tensor.device.type == "cpu"
    weights = weights.to(tensor.device)
    for chunk in data[:whole].view(torch.int64).view(-1, piece).split(512):  # 16 MiB at a time
        if on_cpu:  # numpy, because waking torch's threads costs more than the sums of a small tensor
            digest.update(_sums(chunk.numpy(), weights.numpy()))
        else:  # there are no integer matrix products on other devices
            for words in (chunk, chunk >> 32):
                digest.update((words * weights).sum(-1).cpu().numpy().tobytes())
    return digest.digest()


def _sums(words: np.ndarray, weights: np.ndarray, at_once: int = 16) -> bytes:
    """Both sums of every piece, half a MiB at a time, so that the second finds the words in the cache."""
    import numpy as np

    found = np.empty((2, len(words)), np.int64)
    for first in range(0, len(words), at_once):
        rows = slice(first, first + at_once)
        np.einsum("ij,j->i", words[rows], weights, out=found[0, rows])
        np.einsum("ij,j->i", words[rows] >> 32, weights, out=found[1, rows])
    return found.tobytes()
