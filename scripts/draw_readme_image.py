"""Draw docs/images/heads.png: each head's exact effect beside three estimates, on the published pair.

python scripts/draw_readme_image.py
"""

from pathlib import Path

import veracausa as vc
from veracausa.report.pages.panels import PanelView
from veracausa.studies.results import Panel

PLACE = Path(__file__).parent.parent / "docs" / "images" / "heads.png"


def main() -> None:
    lm = vc.load("smollm2-135m")
    task = vc.tasks.published_pair(lm)
    methods = [("atp", {}), ("ig", {"nodes": 5}), ("ig", {"nodes": 16, "baseline": "zero"})]
    estimates = tuple(vc.attribute(lm, task, method=method, **options) for method, options in methods)
    panel = PanelView(Panel("heads", vc.exact(lm, task), estimates), "readme")
    PLACE.write_bytes(panel.figures[0].png())
    print(f"wrote {PLACE}")
    for estimate in estimates:  # what the picture's caption must say
        print(f"{estimate.method}: {'; '.join(estimate.notes) or 'converged in every layer'}")


if __name__ == "__main__":
    main()
