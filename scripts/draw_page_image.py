"""Draw docs/images/page.png: the first screen of a study's page, with a head chosen.

make study; python scripts/draw_page_image.py out/ioi a20.h0
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PLACE = Path(__file__).parent.parent / "docs" / "images" / "page.png"


def main() -> None:
    folder, unit = Path(sys.argv[1]), sys.argv[2]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1360, "height": 820})
        page.goto(f"{(folder / 'report.html').resolve().as_uri()}#unit={unit}")
        page.wait_for_selector("#unit h2")
        page.screenshot(path=PLACE)
        browser.close()
    print(f"wrote {PLACE}")


if __name__ == "__main__":
    main()
