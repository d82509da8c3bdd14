"""Drives Chromium through its DevTools protocol over a pipe, which needs no driver program."""

import base64
import contextlib
import functools
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--no-first-run",
]
# Both are first copied to higher numbers, because one may be 3 or 4 itself.
_AS_3_AND_4 = (
    "import fcntl, os, sys\n"
    "high = [fcntl.fcntl(int(one), fcntl.F_DUPFD, 10) for one in sys.argv[1:3]]\n"
    "os.dup2(high[0], 3), os.dup2(high[1], 4)\n"
    "os.execv(sys.argv[3], sys.argv[3:])"
)


@functools.cache
def require_chromium() -> str:
    """Returns the path of Chromium; skips the test if it is missing, or does not start on this machine."""
    found = next(filter(None, map(shutil.which, _NAMES)), "")
    if not found:
        pytest.skip("no Chromium")
    command = [found, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"]
    with tempfile.TemporaryDirectory() as profile:
        try:
            done = subprocess.run(
                [*command, f"--user-data-dir={profile}", "about:blank"], capture_output=True, timeout=60, check=False
            )
        except subprocess.TimeoutExpired:
            pytest.skip("Chromium does not start here: no page within 60 s")
    if b"<html" not in done.stdout:
        pytest.skip(f"Chromium does not start here: {done.stderr[-300:]!r}")
    return found


class Browser:
    """One page of a running Chromium."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from, self._numbers, self._rest = to_browser, from_browser, itertools.count(1), b""
        self.errors: list[str] = []
        self._session: str | None = None
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "DOM"):
            self._send(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Opens an address, and waits until the page is there."""
        self._send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """Returns the value of an expression in the page; a promise is waited for."""
        done = self._send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in done:
            raise AssertionError(f"{script}: {done['exceptionDetails']['exception'].get('description')}")
        return done["result"].get("value")

    def wait(self, condition: str, *, seconds: float = 60.0) -> None:
        """Waits until an expression is true."""
        until = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            said = self.run("document.getElementById('message')?.textContent")
            assert time.monotonic() < until, f"not within {seconds:g} s: {condition}; the page says {said!r}"
            time.sleep(0.1)

    def click(self, selector: str) -> None:
        """Clicks an element with the mouse, where it is."""
        where = (
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'center'}); "
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        x, y = self.run(where)
        for kind in ("mousePressed", "mouseReleased"):
            self._send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, name: str) -> None:
        """Presses a key."""
        for kind in ("keyDown", "keyUp"):
            self._send("Input.dispatchKeyEvent", type=kind, key=name, code=name)

    def slide(self, selector: str, value: float) -> None:
        """Moves a slider to a value."""
        self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.value = {value};"
            "e.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )

    def choose_files(self, selector: str, *paths: Path) -> None:
        """Gives files to an input."""
        root = self._send("DOM.getDocument")["root"]["nodeId"]
        node = self._send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._send("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def look(self, path: Path, *, width: int = 1280, height: int = 1000, dark: bool = False) -> None:
        """Sets the size and the colours of the page, and writes a picture of all of it."""
        self._send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._send("Emulation.setEmulatedMedia", features=scheme)
        time.sleep(0.3)
        picture = self._send("Page.captureScreenshot", captureBeyondViewport=True, format="png")["data"]
        path.write_bytes(base64.b64decode(picture))

    def is_wide(self) -> bool:
        """Tells whether something reaches past the right edge."""
        return bool(self.run("document.documentElement.scrollWidth > document.documentElement.clientWidth"))

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("method") == "Runtime.exceptionThrown":
                details = answer["params"]["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description") or details["text"])
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    def _read(self) -> dict[str, Any]:
        until = time.monotonic() + 60.0
        while b"\0" not in self._rest:
            assert select.select([self._from], [], [], max(0.0, until - time.monotonic()))[0], (
                "Chromium does not answer"
            )
            part = os.read(self._from, 1 << 20)
            assert part, "Chromium has ended"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found


@contextlib.contextmanager
def open_browser(profile: Path, *flags: str) -> Iterator[Browser]:
    """Runs Chromium; it reads commands from the file 3 and answers on the file 4."""
    to_browser, from_browser = os.pipe(), os.pipe()
    ends = [str(to_browser[0]), str(from_browser[1])]
    command = [
        sys.executable,
        "-c",
        _AS_3_AND_4,
        *ends,
        require_chromium(),
        *_FLAGS,
        *flags,
        f"--user-data-dir={profile}",
    ]
    with subprocess.Popen(
        command, pass_fds=(to_browser[0], from_browser[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        os.close(to_browser[0])
        os.close(from_browser[1])
        try:
            yield Browser(to_browser[1], from_browser[0])
        finally:
            process.kill()
            os.close(to_browser[1])
            os.close(from_browser[0])
