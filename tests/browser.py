"""Open a page in headless Chromium, as a reader would: its pictures, or clicks and keys."""

import base64
import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import time

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
QUIET = ["gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage"]
CODES = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
HEADLESS = ["--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in QUIET)]


def opened(page, profile, width=1300):
    """The page's body as the browser left it, the ids of the figures it drew, and the errors on its console."""
    command = [CHROMIUM, *HEADLESS, "--enable-logging=stderr", "--v=0", f"--user-data-dir={profile}"]
    done = subprocess.run(
        [*command, "--virtual-time-budget=20000", f"--window-size={width},2400", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    body = done.stdout[done.stdout.index("<body") :]
    drawn = re.findall(r'<div id="(section-\d+-figure-\d+)"[^>]*class="plotly-graph-div js-plotly-plot"', body)
    return body, drawn, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


class Browser:
    """Chromium with one page, driven through its DevTools protocol over a pipe: JSON between null characters.

    Args:
        profile: an empty folder.
    """

    def __init__(self, profile, patience=60):
        self.patience, self.number, self.rest, self.events = patience, 0, b"", []
        theirs, self.to = os.pipe()
        self.back, their_back = os.pipe()
        # numbers that cannot be 3 and 4, at which Chromium looks for its ends
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (theirs, their_back)]
        arguments = [CHROMIUM, *HEADLESS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        null = os.open(os.devnull, os.O_RDWR)
        actions = [(os.POSIX_SPAWN_DUP2, end, at) for at, end in enumerate((null, null, null, *ends))]
        self.process = os.posix_spawn(CHROMIUM, arguments, os.environ, file_actions=actions, setpgroup=0)
        for end in (theirs, their_back, null, *ends):
            os.close(end)
        self.session = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        os.killpg(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        for end in (self.to, self.back):
            os.close(end)

    def _message(self):
        deadline = time.monotonic() + self.patience
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.back], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"the browser said nothing for {self.patience} s"
            read = os.read(self.back, 1 << 20)
            assert read, "the browser is gone"
            self.rest += read
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def ask(self, method, **parameters):
        """The result of a command; what the page says meanwhile is kept."""
        self.number += 1
        asked = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            asked["sessionId"] = self.session
        os.write(self.to, json.dumps(asked).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    @property
    def complaints(self):
        """Errors, warnings and exceptions that the page has had."""
        said = []
        for event in self.events:
            what, method = event.get("params", {}), event.get("method")
            if method == "Runtime.exceptionThrown":
                said.append(str(what["exceptionDetails"].get("exception", {}).get("description", what)))
            elif method == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
                said.append(what["entry"]["text"])
            elif method == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
                said.append(str([one.get("value") for one in what["args"]]))
        return said

    def size(self, width, height, dark=False, touch=False):
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address, ready):
        """Go to an address, and wait for an expression of JavaScript to be true."""
        self.ask("Page.navigate", url="about:blank")  # an address that differs in its fragment alone would stay
        self.ask("Page.navigate", url=str(address))
        self.until(ready)

    def js(self, expression):
        """The value of an expression, which may be a promise."""
        asked = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        result = self.ask("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in result, (expression, result["exceptionDetails"])
        return result["result"].get("value")

    def until(self, expression):
        deadline = time.monotonic() + self.patience
        while not self.js(expression):
            assert time.monotonic() < deadline, f"never true: {expression}; {self.complaints}"
            time.sleep(0.02)

    def middle(self, selector):
        """Where an element is, scrolled into view."""
        find = f"document.querySelector({json.dumps(selector)})"
        box = self.js(
            f"(() => {{ const e = {find}; if (!e) return null; e.scrollIntoView({{block: 'center'}}); "
            "const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
        )
        assert box and box[2] and box[3], f"nothing to see at {selector}"
        return box[0] + box[2] / 2, box[1] + box[3] / 2

    def mouse(self, kind, x, y):
        buttons = {"mousePressed": 1, "mouseMoved": 1, "mouseReleased": 0}[kind]
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=buttons, clickCount=1)

    def click(self, selector):
        self.click_at(*self.middle(selector))

    def click_at(self, x, y):
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y)

    def drag(self, start, end):
        self.mouse("mousePressed", *start)
        for step in (0.3, 0.7, 1.0):
            self.mouse("mouseMoved", *(a + step * (b - a) for a, b in zip(start, end, strict=True)))
        self.mouse("mouseReleased", *end)

    def key(self, *names, shift=False):
        """Keys by their names, such as "ArrowDown"; a single character is typed."""
        for name in names:
            text = {"text": name} if len(name) == 1 else {"text": "\r"} if name == "Enter" else {}
            more = {"key": name, "windowsVirtualKeyCode": CODES.get(name, 0), "modifiers": 8 * shift, **text}
            self.ask("Input.dispatchKeyEvent", type="keyDown", **more)
            self.ask("Input.dispatchKeyEvent", type="keyUp", key=name, windowsVirtualKeyCode=CODES.get(name, 0))

    def write(self, text):
        self.ask("Input.insertText", text=text)

    def picture(self, path, whole=True):
        """The page as a PNG, as long as it is."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path
