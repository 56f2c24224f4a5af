"""`python -m veracausa.sweeps.worker FOLDER [MEMORY]`: one worker of a sweep, as a process of its own."""

from __future__ import annotations

import signal
import sys
import traceback

from veracausa.errors import VeracausaError
from veracausa.spared import in_words
from veracausa.sweeps.folder import Folder
from veracausa.sweeps.working import work_through
from veracausa.terminal import say


def main(folder: str, memory: str | None = None) -> int:
    """Work until nothing is left; 1 and a sentence where that cannot be done."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        work_through(Folder.open(folder), memory=memory)
    except VeracausaError as error:
        say(f"\n{type(error).__name__}: {error}")
        return 1
    except Exception as error:  # no item's own: the model cannot be loaded, say
        traceback.print_exc()
        say(f"\n{in_words(error)}")
        return 1
    return 0


def _leave(number: int, frame: object) -> None:
    """Give back what is in hand: who is told to stop has not failed."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
