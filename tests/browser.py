"""Opens a page in headless Chromium, as a reader's browser would, for the tests of okko's pages.

Chromium is the system's; nothing is installed for it from PyPI. Every call uses a fresh profile and hands
back what the page became and what it printed to the console, or a picture of it.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
_TIMEOUT_S = 60


@dataclass(frozen=True)
class Opened:
    """A page after it was opened: its document and the messages on its console."""

    dom: str
    console: tuple[str, ...]


def open_page(url: str | Path) -> Opened:
    """Opens a file or an address and returns what became of it."""
    done = _chromium(url, "--dump-dom")
    return Opened(done.stdout, tuple(re.findall(r"CONSOLE[^\]]*\] (.*)", done.stderr)))


def screenshot(url: str | Path, to: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> Path:
    """Writes a PNG of the page's upper left part, `width` by `height` pixels, and returns `to`."""
    # 0 is Blink's number for the dark scheme, 1 for the light one.
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    _chromium(url, f"--screenshot={to}", f"--window-size={width},{height}", scheme)
    return to


def _chromium(url: str | Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    address = url.resolve().as_uri() if isinstance(url, Path) else url
    with tempfile.TemporaryDirectory(prefix="okko-browser-", ignore_cleanup_errors=True) as profile:
        command = ["chromium", *_FLAGS, f"--user-data-dir={profile}", *arguments, address]
        return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
