"""Screenshots of what people look at: the documents' site, a batch's page, the fly-through's video.

Run after `make docs`: `python tools/screenshots.py [FILE.html|VIDEO ...]`. Writes PNG files into
out/screenshots, with Chromium without a window: pages of the site in light, dark and narrow, and
each file that is given, such as `views/index.html` of `gld-ros bags` and `film/fly.webm` of
`gld-ros fly`. Nobody is told what they show: look at them.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# (page of the site, width and height of the window, dark)
PAGES = (
    ("index", (1280, 1600), False),
    ("index", (1280, 1600), True),
    ("index", (500, 1600), False),
    ("quickstart/bags", (1280, 1600), False),
    ("mapping_recipes", (1280, 2000), False),
    ("mapping_recipes", (500, 2000), False),
)
FILE_HW = (1280, 1400)
WAIT_MS = 8000  # for scripts, such as diagrams
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> int:
    """Take all screenshots; 1 if one could not be taken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="pages and videos beside the site's")
    parser.add_argument("--site", type=Path, default=Path("out/site"))
    parser.add_argument("--out", type=Path, default=Path("out/screenshots"))
    args = parser.parse_args()
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"none of {', '.join(BROWSERS)} is installed: apt install chromium")
    wanted = [
        (args.site / f"{page}.html", size, dark, _name(page, size, dark))
        for page, size, dark in PAGES
    ]
    wanted += [(file, FILE_HW, False, f"{file.parent.name}_{file.name}") for file in args.files]
    missing = [str(file) for file, *_ in wanted if not file.is_file()]
    if missing:
        sys.exit(f"there is no {', '.join(missing)}; `make docs` builds the site")
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for file, size, dark, name in wanted:
        path = args.out / f"{name}.png"
        taken = _screenshot(browser, file, path, size, dark)
        print(path if taken else f"PROBLEM: no screenshot of {file}")
        failed += not taken
    return int(failed > 0)


def _name(page: str, size: tuple[int, int], dark: bool) -> str:
    return f"{page.replace('/', '_')}_{size[0]}{'_dark' if dark else ''}"


def _screenshot(browser: str, file: Path, path: Path, size: tuple[int, int], dark: bool) -> bool:
    """Write a PNG of a page in a window of a size (width, height); whether there is one."""
    path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser,
            "--headless",
            "--no-sandbox",  # as root in a container there is none
            "--hide-scrollbars",
            "--disable-gpu",
            f"--user-data-dir={profile}",
            f"--window-size={size[0]},{size[1]}",
            f"--virtual-time-budget={WAIT_MS}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--screenshot={path.absolute()}",
            file.absolute().as_uri(),
        ]
        subprocess.run(command, capture_output=True, check=False, timeout=120)
    return path.is_file()


if __name__ == "__main__":
    sys.exit(main())
