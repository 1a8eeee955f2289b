"""A headless Chromium, driven over a pipe: for the pictures in the documentation, and for tests of pages.

    with Browser() as browser:
        browser.open(url, width=1280, height=900)
        browser.evaluate("document.title")

Nothing leaves this machine: pages are opened from files, and Chromium's own traffic is turned off.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Any, Self

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--hide-scrollbars"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--remote-debugging-pipe"),
)
_SECONDS = 60


class BrowserError(Exception):
    """The browser could not do it; the message says what."""


def find_browser() -> str | None:
    """The path of a Chromium on this machine; None if there is none."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Browser:
    """One page of a headless Chromium, which ends with the `with` block.

    Attributes:
        errors: what the page has written to the console as an error, and exceptions of its scripts.

    Raises:
        BrowserError: there is no Chromium, it does not answer within a minute, or it refuses a command.
    """

    def __init__(self) -> None:
        path = find_browser()
        if path is None:
            raise BrowserError(f"no Chromium on this machine; looked for {', '.join(PROGRAMS)}")
        self.errors: list[str] = []
        self._events: list[str] = []
        self._path, self._number, self._session, self._read = path, 0, "", b""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        (out_read, self._out), (self._in, in_write) = os.pipe(), os.pipe()
        # The pipe of the protocol is Chromium's file descriptors 3 and 4; bash moves ours there, from above both.
        ours = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in (out_read, in_write)]
        move = 'exec "$0" "$@" 3<&{} 4>&{}'.format(*ours)
        try:
            self._process = subprocess.Popen(
                ["bash", "-c", move, self._path, *_OPTIONS, f"--user-data-dir={self._folder.name}", "about:blank"],
                pass_fds=ours,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        finally:
            for each in (out_read, in_write, *ours):
                os.close(each)
        try:
            self._attach()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._out)
        os.close(self._in)
        # Chromium ends when its pipe is closed.
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def _attach(self) -> None:
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, url: str, *, width: int, height: int, dark: bool = False) -> None:
        """Open a page in a window of this size, and wait until it has loaded."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        # An address that differs from the last one only behind "#" would not be loaded again.
        for each in ("about:blank", url):
            self._events.clear()
            self._call("Page.navigate", url=each)
            while "Page.loadEventFired" not in self._events:
                self._receive()

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        done = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise BrowserError(f"{expression}: {done['exceptionDetails']['text']}")
        return done["result"].get("value")

    def screenshot(self) -> bytes:
        """What the window shows, as PNG."""
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self._call("Page.printToPDF")["data"])

    def _call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _receive(self) -> dict[str, Any]:
        """The next message. Events are noted, errors of the page among them."""
        end = time.monotonic() + _SECONDS
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._in], [], [], max(end - time.monotonic(), 0))
            data = os.read(self._in, 1 << 16) if ready else b""
            if not data:
                raise BrowserError("Chromium has ended" if ready else f"no answer within {_SECONDS} s")
            self._read += data
        text, _, self._read = self._read.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, parameters: dict[str, Any]) -> None:
        self._events.append(event)
        if event == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and parameters["type"] == "error":
            self.errors.append(str(parameters["args"]))
        elif event == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])
