"""What `vc.forecast` says against what the call then takes: token-layers, seconds and peak memory, call by call.

Each call runs in a process of its own, so that its peak is its own: the highest resident set during the call, less the
set just before it (the weights are in it). Linux only, which can set the peak back.

    python benchmarks/forecasts.py                  SmolLM2-135M, ioi (about two minutes)
    python benchmarks/forecasts.py gemma3-270m      another model
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

from common import header, table

import veracausa as vc

PAIRS = 8
CALLS = {
    "exact heads, 1 pair": "vc.exact, lm, task[:1]",
    "exact heads, 8 pairs": "vc.exact, lm, task",
    "exact m15, 1 pair": "vc.exact, lm, task[:1], units=[f'm15.n{i}' for i in range(1536)]",
    "exact 500 edges, 1 pair": "vc.exact, lm, task[:1], units=vc.select(edges, n=500, how='abs').names",
    "atp heads, 8 pairs": "vc.attribute, lm, task",
    "atp neurons, 8 pairs": "vc.attribute, lm, task, units='neurons'",
    "ig heads, 8 pairs": "vc.attribute, lm, task, method='ig'",
    "eap edges, 8 pairs": "vc.attribute, lm, task, units='edges', method='eap'",
    "eap-ig edges, 8 pairs": "vc.attribute, lm, task, units='edges', method='eap-ig'",
    "faithfulness, 8 pairs": "vc.faithfulness, lm, task, circuit=vc.select(edges, n=500)",
    "curve, 8 pairs": "vc.curve, lm, task, scores=edges",
    "locate a20.h0, 2 pairs": "vc.causes.locate, lm, task[:2], units=['a20.h0']",
    "last-in of a20, 2 pairs": "vc.effects.last_in, lm, task[:2], units=[f'a20.h{i}' for i in range(9)]",
}


def resident(name: str) -> int:
    """Bytes: VmRSS now, VmHWM at most."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def one(call: str, model: str) -> dict[str, float]:
    """Forecast and run one call in this process."""
    lm = vc.load(model)
    task = vc.tasks.ioi(lm, n=PAIRS)
    known = {"vc": vc, "lm": lm, "task": task}
    if "edges" in call.replace("units='edges'", ""):
        known["edges"] = vc.attribute(lm, task[:1], units="edges", method="eap", show_progress=False)
    verb, args, options = eval(f"(lambda verb, *args, **options: (verb, args, options))({call})", known)
    price = vc.forecast(verb, *args, **options)
    Path("/proc/self/clear_refs").write_text("5")
    before, began = resident("VmRSS"), time.perf_counter()
    found = verb(*args, **options, show_progress=False)
    seconds, peak = time.perf_counter() - began, resident("VmHWM") - before
    cost = found.signed[0].cost if isinstance(found, vc.circuits.Curve) else found.cost
    return {
        "said": price.token_layers, "spent": cost.token_layers, "seconds said": price.seconds or float("nan"),
        "seconds": seconds, "memory said": price.memory.beside / 2**20, "memory": peak / 2**20,
    }  # fmt: skip


def main() -> None:
    if len(sys.argv) > 2:
        print(json.dumps(one(CALLS[sys.argv[2]], sys.argv[1])))
        return
    model = (sys.argv[1:] or ["smollm2-135m"])[0]
    print(header(" ".join(["python benchmarks/forecasts.py", *sys.argv[1:]])))
    rows = []
    for name in CALLS:
        how = {"stdout": subprocess.PIPE, "text": True, "check": True}
        told = subprocess.run([sys.executable, __file__, model, name], **how).stdout
        now = json.loads(told.splitlines()[-1])
        rows.append(
            [
                name, f"{now['said']:,.0f}", f"{now['spent'] / now['said']:.3f}", f"{now['seconds said']:.2f}",
                f"{now['seconds']:.2f}", f"{now['memory said']:,.0f}", f"{now['memory']:,.0f}",
            ]
        )  # fmt: skip
        print(rows[-1], file=sys.stderr, flush=True)
    print(table(["call", "token-layers said", "spent", "s said", "s taken", "MiB said", "MiB taken"], rows))


if __name__ == "__main__":
    main()
