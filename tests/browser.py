"""Drive Chromium without a window, over the pipe of its debugging protocol; nothing but the standard library."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (path := shutil.which(name))), None
)
PATIENCE = 60_000  # milliseconds that a script in the page may take


class Browser:
    """One page of a browser."""

    def __init__(self, profile: Path, width: int = 1280, height: int = 900, **media: str) -> None:
        to_browser, from_us = os.pipe()
        from_browser, to_us = os.pipe()

        def connect() -> None:  # the protocol wants descriptors 3 and 4
            first, second = os.dup(to_browser), os.dup(to_us)
            os.dup2(first, 3)
            os.dup2(second, 4)

        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars"]
        assert CHROMIUM is not None
        self._process = subprocess.Popen(
            [CHROMIUM, *options, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=connect, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(to_us)
        self._out, self._in = os.fdopen(from_us, "wb", buffering=0), os.fdopen(from_browser, "rb", buffering=0)
        self._sent, self._left = 0, b""
        self.events: list[dict[str, Any]] = []
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.send(f"{domain}.enable")
        self.resize(width, height)
        if media:
            features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
            self.send("Emulation.setEmulatedMedia", features=features)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._out.close()
        self._in.close()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result; events that come meanwhile are kept."""
        self._sent += 1
        message: dict[str, Any] = {"id": self._sent, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._sent:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            piece = self._in.read(2**16)
            assert piece, "the browser has gone"
            self._left += piece
        line, _, self._left = self._left.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def resize(self, width: int, height: int = 900) -> None:
        """Set the size of the window; a narrow one is a telephone."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def open(self, page: Path) -> None:
        """Load a page from a file."""
        self.send("Page.navigate", url=page.resolve().as_uri())
        self.run("new Promise((go) => document.readyState === 'complete' ? go() : addEventListener('load', go))")

    def run(self, script: str) -> Any:
        """Evaluate JavaScript in the page, wait for its promise, and return its value."""
        done = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, timeout=PATIENCE)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until a condition holds in the page."""
        self.run(f"new Promise((go) => {{ const look = () => ({condition}) ? go() : setTimeout(look, 20); look(); }})")

    def mouse(self, kind: str, x: float, y: float) -> None:
        """Press, move or release the mouse ("mousePressed", "mouseMoved", "mouseReleased")."""
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        """Put down, move or lift a finger ("touchStart", "touchMove", "touchEnd")."""
        self.send("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y} for x, y in points])

    def key(self, key: str, code: int) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self, path: Path, whole: bool = True) -> None:
        """Write a picture of the page."""
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
