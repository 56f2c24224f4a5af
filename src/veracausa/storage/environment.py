"""Where a study's numbers come from: versions, machine, command."""

from __future__ import annotations

import platform
import shlex
import sys
from pathlib import Path

import torch

from veracausa.version import __version__


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    import transformers

    return {
        "veracausa": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def machine(device: torch.device, dtype: torch.dtype) -> str:
    """The machine in a few words: processor, cores, precision."""
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        where = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return f"{where}, {str(dtype).removeprefix('torch.')}"


def command() -> str:
    """The command that is running, as one would type it."""
    name = Path(sys.argv[0]).name or "python"
    return shlex.join(["veracausa" if name in ("veracausa", "__main__.py") else name, *sys.argv[1:]])
