"""What a user asks for beside the weights, as torch and transformers take it: precision, device, attention."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from veracausa.arguments import kind_and_value
from veracausa.errors import DeviceError, MethodError
from veracausa.loading.tokenizer import first_line
from veracausa.typed import is_whole

if TYPE_CHECKING:
    import torch


#: The `device` that stands for all GPUs that there are, for a model that fits onto none of them alone.
SPREAD = "auto"


def load_options(
    dtype: Any, attn_implementation: str | None, trust_remote_code: bool, device: Any = None
) -> dict[str, Any]:
    """What `from_pretrained` is given: float32 unless asked otherwise.

    Raises:
        MethodError: `dtype` is no type. DeviceError: what spreads a model over several devices is not installed.
    """
    import torch

    options: dict[str, Any] = {"dtype": torch.float32 if dtype is None else dtype_of(dtype)}
    options["trust_remote_code"] = trust_remote_code
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    if device == SPREAD:
        if find_spec("accelerate") is None:
            raise DeviceError(f"device={SPREAD!r} needs the package accelerate: pip install accelerate.")
        options["device_map"] = SPREAD
    return options


def require_named(dtype: Any, device: Any) -> None:
    """Raise MethodError or DeviceError for a type or a device that is neither a name nor torch's own; a GPU may be a
    number."""
    import torch

    if not (dtype is None or isinstance(dtype, str | torch.dtype)):
        raise MethodError(f"dtype is a type of torch or its name; {kind_and_value(dtype)} is no floating-point type.")
    if not (device is None or isinstance(device, str | torch.device) or is_whole(device)):
        raise DeviceError(f"device is a device of torch or its name, such as 'cuda'; this is {kind_and_value(device)}.")


def require_on_devices(title: str, hf: Any) -> None:
    """Raise DeviceError where a model that was spread lies partly on the disk, or in memory beside GPUs."""
    places = {str(place) for place in getattr(hf, "hf_device_map", {}).values()}
    if "disk" in places or ("cpu" in places and len(places) > 1):
        raise DeviceError(
            f"{title} does not fit onto the GPUs that there are: a part of it would lie elsewhere and be fetched in "
            "every run. Choose a smaller dtype (dtype='bfloat16') or more GPUs, or load it with Accelerate and pass it."
        )


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
