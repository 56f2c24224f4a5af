"""Start-up times, each in a fresh process: the import, the command line's help, a packaged model from the cache.

python benchmarks/loading.py
"""

from __future__ import annotations

import subprocess
import sys

from common import header, seconds, table

RUNS = {
    "python -c pass": "pass",
    "import torch, transformers": "import torch, transformers",
    "import veracausa": "import veracausa",
    "import veracausa; use every name": "import veracausa as vc; [getattr(vc, name) for name in vc.__all__]",
    "veracausa --help": "import sys; sys.argv = ['veracausa', '--help']; from veracausa.cli.app import main; main()",
    "vc.load('smollm2-135m')": "import veracausa as vc; vc.load('smollm2-135m')",
    "vc.load('gemma3-270m')": "import veracausa as vc; vc.load('gemma3-270m')",
}


def main() -> None:
    def run(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    rows = [[f"`{name}`", f"{seconds(lambda code=code: run(code)):.2f}"] for name, code in RUNS.items()]
    print(header("python benchmarks/loading.py"))
    print()
    print(table(["what, in a fresh process", "seconds"], rows))


if __name__ == "__main__":
    main()
