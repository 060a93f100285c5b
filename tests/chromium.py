"""Chromium driven through its debugging pipe: a page is opened, clicked and typed into, as by a person."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)  # fmt: skip
SECONDS = 60.0  # for an answer; a busy machine may take many
KEYS = {"Enter": ("\r", 13), "Tab": ("", 9), "ArrowRight": ("", 39), "ArrowLeft": ("", 37), "ArrowDown": ("", 40),
        "Escape": ("", 27)}  # fmt: skip


class Browser:
    """A browser with one page; `requests` has the addresses that it asked for, `trouble` what its console reported."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[str] = []
        self.trouble: list[str] = []
        self.loaded = False
        self.number = 0
        self.buffer = b""
        read_by_it, self.to = os.pipe()
        self.back, written_by_it = os.pipe()

        # the pipe is file descriptors 3 and 4 of the browser, which bash can make of any others
        own = [fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (read_by_it, written_by_it)]
        profile = f"--user-data-dir={folder / 'profile'}"
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{own[0]} 4>&{own[1]}', "bash", str(CHROMIUM), *FLAGS, profile, "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=own,
        )  # fmt: skip
        for each in (read_by_it, written_by_it, *own):
            os.close(each)
        self.session = ""
        pages = self.call("Target.getTargets")["targetInfos"]
        page = next(each["targetId"] for each in pages if each["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.to)
        os.close(self.back)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the result of a method of the DevTools protocol."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(SECONDS)
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer)
                return answer["result"]

    def _next(self, seconds: float) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.back], [], [], seconds)
            assert ready, "the browser does not answer"
            content = os.read(self.back, 2**20)
            assert content, "the browser has ended"
            self.buffer += content
        line, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, found: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(found["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.trouble.append(json.dumps(found["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and found["entry"]["level"] in ("error", "warning"):
            self.trouble.append(found["entry"]["text"])
        elif method == "Page.loadEventFired":
            self.loaded = True

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        """Show the page on a screen of this size, CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def dark(self, *, on: bool = True) -> None:
        """Prefer dark colours, or light ones."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def open(self, url: str, ready: str = "true") -> None:
        """Open a page, and wait until an expression is true."""
        self.loaded = False
        self.call("Page.navigate", url=url)
        while not self.loaded:
            self._next(SECONDS)
        self.wait(ready)

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        ends = time.monotonic() + SECONDS
        while not self.value(expression):
            assert time.monotonic() < ends, f"never true: {expression}"
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def place(self, selector: str) -> tuple[float, float]:
        """Return the middle of an element, scrolled into view."""
        middle = "[box.x + box.width / 2, box.y + box.height / 2]"
        scroll = f"const it = document.querySelector({json.dumps(selector)}); it.scrollIntoView({{block: 'center'}})"
        found = self.value(f"(() => {{ {scroll}; const box = it.getBoundingClientRect(); return {middle}; }})()")
        return found[0], found[1]

    def move(self, x: float, y: float) -> None:
        """Move the mouse."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        """Click an element with the mouse."""
        x, y = self.place(selector)
        self.click_at(x, y)

    def click_at(self, x: float, y: float) -> None:
        """Click a place of the window."""
        self.move(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, name: str) -> None:
        """Press a key."""
        text, code = KEYS[name]
        common = {"key": name, "code": name, "windowsVirtualKeyCode": code, "nativeVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Type a text into the focused element."""
        self.call("Input.insertText", text=text)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write a PNG of the window, or of the whole page."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
