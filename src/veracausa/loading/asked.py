"""What a user asks for beside the weights, as torch and transformers take it: precision, device, attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from veracausa.errors import DeviceError, MethodError
from veracausa.loading.tokenizer import first_line

if TYPE_CHECKING:
    import torch


def load_options(dtype: Any, attn_implementation: str | None, trust_remote_code: bool) -> dict[str, Any]:
    """What `from_pretrained` is given: float32 unless asked otherwise."""
    import torch

    options: dict[str, Any] = {"dtype": torch.float32 if dtype is None else dtype_of(dtype)}
    options["trust_remote_code"] = trust_remote_code
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    return options


def dtype_of(dtype: Any) -> Any:
    """The floating-point type by its name, or "auto", that of the file.

    Raises:
        MethodError: it is none.
    """
    import torch

    if dtype == "auto":
        return dtype
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise MethodError(f"dtype={dtype!r} is no floating-point type: use 'float32', 'bfloat16', 'float64' or 'auto'.")
    return found


def device_of(device: Any) -> torch.device:
    """The device by its name; None: a GPU if there is one.

    Raises:
        DeviceError: it is not there, or holds no values.
    """
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise DeviceError(f"device={device!r} cannot be used here: {first_line(error)}.") from error
    if found.type == "meta":
        raise DeviceError("device='meta' holds no values: choose 'cpu' or 'cuda'.")
    return found
