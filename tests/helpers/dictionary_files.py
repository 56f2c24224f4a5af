"""Sizes of the dictionaries that tests write, and how exactly what is read must be right."""

import torch

WIDTH, SIZE = 24, 40


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """The same up to the rounding of float64 sums in another order."""
    assert found.shape == wanted.shape
    assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-10), (found - wanted).abs().max()
