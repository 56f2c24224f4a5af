"""Where a study's numbers come from: versions, machine, command."""

from __future__ import annotations

import platform
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from veracausa import __version__

if TYPE_CHECKING:
    from veracausa.model import Model


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    import transformers

    return {
        "veracausa": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def machine(lm: Model) -> str:
    """The machine in a few words: processor, cores, precision."""
    if lm.device.type == "cuda":
        where = torch.cuda.get_device_name(lm.device)
    else:
        where = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return f"{where}, {str(lm.dtype).removeprefix('torch.')}"


def command() -> str:
    """The command that is running, as one would type it."""
    name = Path(sys.argv[0]).name or "python"
    return shlex.join(["veracausa" if name in ("veracausa", "__main__.py") else name, *sys.argv[1:]])
