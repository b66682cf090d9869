"""A real Chromium that is driven: clicks, typing, and pictures, through its debugging pipe.

Only what the tests of the dashboard need, over two file descriptors and JSON; `tests.browser` is for pages that are
only looked at. Protocol: https://chromedevtools.github.io/devtools-protocol/.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, Any

from tests.browser import _FLAGS

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_ANSWER_S = 30.0


class Browser:
    """A headless Chromium with one page, from `with` to its end.

    Attributes:
        console: what pages wrote to the console as warnings and errors, uncaught exceptions, and refusals by the
            page's security policy.
    """

    def __init__(self) -> None:
        self.console: list[str] = []
        self._number = 0
        self._waiting = b""

    def __enter__(self) -> Browser:
        self._profile = tempfile.TemporaryDirectory(prefix="okko-browser-", ignore_cleanup_errors=True)
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4.
        shell = f'exec chromium "$@" 3<&{to_browser} 4>&{from_browser}'
        flags = (*_FLAGS, "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}", "about:blank")
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "chromium", *flags],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        targets = self._call("Target.getTargets", session=None)["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self._call("Target.attachToTarget", session=None, targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(Exception):
            self._call("Browser.close", session=None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    def look_like(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """Sets the window's size in pixels, the colour scheme, and whether it is a phone with two dots a pixel."""
        scale = 2 if phone else 1
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Opens a page and waits until it is loaded."""
        self._call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression, awaited."""
        answer = self._call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def until(self, expression: str, timeout_s: float = 15.0) -> Any:
        """Waits until a JavaScript expression is true, and returns its value."""
        end_s = time.monotonic() + timeout_s
        while True:
            # While a page is being replaced there is nothing to ask.
            with contextlib.suppress(AssertionError):
                if value := self.run(expression):
                    return value
            if time.monotonic() > end_s:
                raise AssertionError(f"never true: {expression}; console: {self.console}")
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """Clicks in the middle of an element with the mouse, as a person would: what lies above it gets the click."""
        box = self.until(
            f"(e => e && !e.disabled && (e.scrollIntoView({{block: 'center'}}), (r => [r.x + r.width / 2, "
            f"r.y + r.height / 2])(e.getBoundingClientRect())))(document.querySelector({json.dumps(selector)}))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Presses a key: Tab, Enter, Escape or Space."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "Space": 32}
        text = {"Enter": "\r", "Space": " "}.get(key)
        name = " " if key == "Space" else key
        fields = {"key": name, "code": key, "windowsVirtualKeyCode": codes[key]}
        self._call("Input.dispatchKeyEvent", type="keyDown", **fields, **({"text": text} if text else {}))
        self._call("Input.dispatchKeyEvent", type="keyUp", **fields)

    def type(self, text: str) -> None:
        """Types into what has the focus."""
        self._call("Input.insertText", text=text)

    def picture(self, to: Path, *, whole: bool = True) -> Path:
        """Writes a PNG of the whole page, or of what is in the window."""
        shot = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        to.write_bytes(base64.b64decode(shot["data"]))
        return to

    def accessible(self) -> list[tuple[str, str]]:
        """Returns role and name of everything on the page that a screen reader tells of."""
        nodes = self._call("Accessibility.getFullAXTree")["nodes"]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]

    def _call(self, method: str, *, session: str | None = "page", **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end_s = time.monotonic() + _ANSWER_S
        while True:
            answer = self._next(end_s)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _next(self, end_s: float) -> dict[str, Any]:
        while b"\0" not in self._waiting:
            if not select.select([self._in], [], [], max(0.0, end_s - time.monotonic()))[0]:
                raise AssertionError(f"Chromium did not answer in {_ANSWER_S} s")
            data = os.read(self._in, 1 << 16)
            if not data:
                raise AssertionError("Chromium has ended")
            self._waiting += data
        text, _, self._waiting = self._waiting.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        details = event.get("params", {})
        if event.get("method") == "Log.entryAdded":
            entry = details["entry"]
            self.console.append(f"{entry['level']}: {entry['text']} {entry.get('url', '')}")
        elif event.get("method") == "Runtime.exceptionThrown":
            self.console.append(str(details["exceptionDetails"]))
        elif event.get("method") == "Runtime.consoleAPICalled":
            self.console.append(str(details["args"]))
