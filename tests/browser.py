"""Open a page in headless Chromium, as a reader would."""

import re
import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")


def opened(page, profile, width=1300):
    """The page's body as the browser left it, the ids of the figures it drew, and the errors on its console."""
    quiet = ["gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage"]
    command = [CHROMIUM, "--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    command += ["--enable-logging=stderr", "--v=0", f"--user-data-dir={profile}", "--virtual-time-budget=20000"]
    done = subprocess.run(
        [*command, f"--window-size={width},2400", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    body = done.stdout[done.stdout.index("<body") :]
    drawn = re.findall(r'<div id="(section-\d+-figure-\d+)"[^>]*class="plotly-graph-div js-plotly-plot"', body)
    return body, drawn, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
