"""`python -m tests.support.check_report REPORT FOLDER`: a report in Chromium on a desk and a phone.

It asks nothing of a network, is no wider than the screen, and has text; screenshots go to FOLDER. A
page that fails is looked at first, so that a browser which sees nothing does not pass for a good
report.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SCREENS = {"desk": (1280, 900), "phone": (390, 844)}
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--allow-file-access-from-files",
    "--virtual-time-budget=20000",
)
FRAME = """<!doctype html><title>waiting</title><body style="margin: 0">
<iframe src="{page}" width="{width}" height="{height}"
style="border: 0" onload="setTimeout(() => {{ const root = this.contentDocument.documentElement;
document.body.dataset.width = root.scrollWidth;
document.body.dataset.letters = root.innerText.length; }}, 5000)"></iframe>"""
BAD = '<img src="http://127.0.0.1:9/x.png"><div style="width: 3000px">wide</div>'


def look(page: Path, width: int, height: int, picture: Path) -> tuple[int, int, list[str]]:
    """A page's width in pixels, its number of readable letters, and the addresses it asked for."""
    with tempfile.TemporaryDirectory() as folder:
        frame, log = Path(folder, "frame.html"), Path(folder, "net.json")
        frame.write_text(FRAME.format(page=page.resolve().as_uri(), width=width, height=height))
        dom = subprocess.run(
            [
                "chromium",
                *QUIET,
                f"--user-data-dir={folder}/profile",
                f"--window-size={width},{height}",
                f"--log-net-log={log}",
                f"--screenshot={picture.resolve()}",
                "--dump-dom",
                frame.as_uri(),
            ],
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
        ).stdout
        starts = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
        asked = {  # by a page, not by the browser itself
            start["url"]
            for start in starts
            if start.get("initiator", "not an origin") != "not an origin"
        }
    size, letters = (
        int(re.search(rf'data-{name}="(\d+)"', dom)[1]) for name in ("width", "letters")
    )
    return size, letters, sorted(url for url in asked if url.startswith(("http", "ws")))


def main(report: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    bad = folder / "bad.html"
    bad.write_text(BAD)
    width, _, asked = look(bad, *SCREENS["phone"], folder / "bad.png")
    assert width >= 3000 and asked == ["http://127.0.0.1:9/x.png"], (width, asked)
    for screen, (wide, high) in SCREENS.items():
        width, letters, asked = look(report, wide, high, folder / f"{screen}.png")
        assert not asked, f"{screen}: the report asks for {asked}"
        assert width <= wide, f"{screen}: {width} pixels wide, the screen has {wide}"
        assert letters > 200, f"{screen}: {letters} letters"
        print(f"{report} on a {screen}: {letters} letters, {width} of {wide} pixels wide, offline")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
