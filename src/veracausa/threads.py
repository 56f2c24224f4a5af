"""How long threads that wait for work keep a processor busy.

Between two products torch's threads (GNU OpenMP) spin, 300,000 turns long, before they sleep. On a machine that others
use, each turn takes time from those that work: beside seven other processes on two cores, two threads took 3 to 4 times
as long as with 1,000 turns (`python benchmarks/threads.py`; benchmarks/RESULTS.md). So few are what GNU OpenMP itself
takes where it knows of more threads than processors; of other processes it knows nothing.
"""

from __future__ import annotations

import os
import sys

#: What OpenMP is told by, if the user has not chosen: it is read once, when torch is imported.
_SPINS, _CHOSEN = "GOMP_SPINCOUNT", ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
_TURNS = "1000"


def wait_shortly() -> None:
    """Let threads sleep soon; nothing where torch is there already, or where the environment says how they wait.

    $ OMP_WAIT_POLICY=active python study.py      # on a machine of one's own
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in _CHOSEN):
        os.environ[_SPINS] = _TURNS
