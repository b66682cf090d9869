"""The page itself, in a real Chromium: what a person sees, taps and types."""

from __future__ import annotations

import dataclasses
import io
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from okko_edge.dashboard import passwords
from okko_edge.events import Event
from okko_edge.frame import Frame
from okko_models.decision import Verdict
from tests.edge.dashboard_bench import Bench
from tests.edge.dashboard_fakes import ABOUT, decision, unseen
from tests.edge.devtools import Browser

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from okko_edge.sorter import Decision

PHONE = {"width": 390, "height": 844, "phone": True}
MARBLES = "document.querySelectorAll('#latest li').length"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench() as running:
        yield running


@pytest.fixture(autouse=True)
def a_fresh_desktop(browser: Browser) -> None:
    browser.console.clear()
    browser.look_like(1180, 900)


def text(browser: Browser, selector: str) -> str:
    found: str = browser.run(f"document.querySelector('{selector}').innerText")
    return found


def bright(number: int, ok: float = 0.95, **changes: float) -> Decision:
    image = np.full((48, 64, 3), 230, np.uint8)
    return decision(number, ok, shown=Frame(image, float(number), number), **changes)


def test_counts_marbles_and_charts_appear_and_follow(bench: Bench, browser: Browser) -> None:
    bench.sort(bright(1, 0.99), bright(2, 0.01), bright(3, 0.5, novelty=1.4), unseen(4))
    bench.counters.add(Event.STALE_FRAME, 5)
    browser.open(bench.dashboard.url)
    browser.until(f"{MARBLES} === 4")
    assert (text(browser, "#marbles"), text(browser, "#count-KO"), text(browser, "#errors")) == ("4", "2", "1")
    first, second, *_ = text(browser, "#latest").split("no. 4")[0], text(browser, "#latest li:nth-child(2)")
    assert "no frame was taken" in first
    assert "Uncertain" in second
    assert "50\u00a0% OK" in second
    assert "unlike anything in training" in second
    assert "stale frames\n5" in text(browser, "#events")
    assert browser.run("document.querySelectorAll('#confidence rect').length") == 20
    assert "unlike training" in text(browser, "#drift-caption")
    assert text(browser, "#model") == "marbles on bench"
    bench.sort(bright(5))
    browser.until("document.getElementById('marbles').textContent === '5'")
    browser.until("[...document.images].filter(i => i.src.includes('thumbnail') && i.naturalWidth).length === 4")
    assert browser.console == []


def test_the_live_view_moves_and_shows_where_the_model_looks(bench: Bench, browser: Browser, tmp_path: Path) -> None:
    bench.dashboard.see(Frame(np.full((48, 64, 3), 20, np.uint8), 1.0, 1))
    browser.open(bench.dashboard.url)
    browser.until("document.getElementById('live').naturalWidth === 64 && !!state.view")
    box = "(e => (r => [r.x, r.y, r.width, r.height])(e.getBoundingClientRect()))"
    picture, region = (browser.run(f"{box}(document.querySelector('{name}'))") for name in ("#live", "#region .line"))
    # The square of 24 pixels at 20, 12 in a picture of 64 by 48.
    scale = picture[2] / 64
    expected = [picture[0] + 20 * scale, picture[1] + 12 * scale, 24 * scale, 24 * scale]
    assert region == pytest.approx(expected, abs=3)
    before = middle_of(browser, picture, tmp_path)
    bench.dashboard.see(Frame(np.full((48, 64, 3), 220, np.uint8), 2.0, 2))
    end_s = time.monotonic() + 10
    while middle_of(browser, picture, tmp_path) < 180:
        assert time.monotonic() < end_s, "the picture did not change"
    assert before < 60


def middle_of(browser: Browser, box: list[float], tmp_path: Path) -> float:
    shot = np.asarray(Image.open(browser.picture(tmp_path / "now.png")).convert("L"), dtype=float)
    x, y = int(box[0] + box[2] / 2), int(box[1] + box[3] / 2)
    return float(shot[y - 5 : y + 5, x - 5 : x + 5].mean())


def test_a_reload_shows_everything_again(bench: Bench, browser: Browser) -> None:
    bench.sort(*(bright(number) for number in range(1, 31)))
    for _ in range(2):
        browser.open(bench.dashboard.url)
        browser.until(f"{MARBLES} === 24")
        assert text(browser, "#marbles") == "30"


def test_pause_gate_and_resume_work_by_mouse(bench: Bench, browser: Browser) -> None:
    browser.open(bench.dashboard.url)
    browser.until("!document.getElementById('pause').disabled")
    assert browser.run("document.getElementById('gate').matches(':disabled')")
    browser.click("#pause")
    browser.until("document.getElementById('status').textContent === 'Paused'")
    browser.click("#gate [data-verdict=KO]")
    browser.until("document.getElementById('pause').textContent === 'Resume'")
    end_s = time.monotonic() + 10
    while not bench.controls.gate and time.monotonic() < end_s:
        time.sleep(0.02)
    assert bench.controls.gate == [Verdict.KO]
    browser.click("#pause")
    browser.until("document.getElementById('pause').textContent === 'Pause'")
    assert not bench.controls.paused


def test_a_verdict_is_corrected_with_the_keyboard_alone(bench: Bench, browser: Browser) -> None:
    bench.sort(bright(1, 0.99))
    browser.open(bench.dashboard.url)
    browser.until(f"{MARBLES} === 1")
    for _ in range(30):
        browser.press("Tab")
        if browser.run("document.activeElement.textContent === 'Correct'"):
            break
    browser.press("Enter")
    browser.until("document.getElementById('correction').open")
    browser.until("document.getElementById('correction-picture').naturalWidth === 64")
    browser.press("Space")  # the first label, KO
    browser.click("#correction-save")
    browser.until("!document.getElementById('correction').open")
    assert [(kept.number, label) for kept, label in bench.outbox.kept] == [(1, "KO")]
    browser.until("document.querySelector('.corrected').textContent === 'you said KO'")
    assert "Marble 1 is KO" in text(browser, "#notice")


def test_the_list_holds_still_while_told_to(bench: Bench, browser: Browser) -> None:
    bench.sort(bright(1))
    browser.open(bench.dashboard.url)
    browser.until(f"{MARBLES} === 1")
    browser.click("#hold")
    bench.sort(bright(2))
    browser.until("document.getElementById('marbles').textContent === '2'")
    assert browser.run(MARBLES) == 1
    browser.click("#hold")
    browser.until(f"{MARBLES} === 2")


def test_a_device_that_goes_away_is_said_to_be_away(browser: Browser) -> None:
    with Bench() as bench:
        browser.open(bench.dashboard.url)
        browser.until("!document.getElementById('pause').disabled")
    browser.until("document.getElementById('status').textContent.startsWith('No connection')")
    assert browser.run("document.getElementById('pause').disabled")


def test_names_from_outside_are_text_and_never_part_of_the_page(browser: Browser) -> None:
    nasty = "<img src=x onerror=alert(1)>"
    about = dataclasses.replace(ABOUT, labels=(nasty, "OK"), device=nasty, camera=f"folder:{nasty}")
    with Bench(about=about) as bench:
        bench.sort(bright(1, 0.1), dataclasses.replace(unseen(2), error=nasty))
        browser.open(bench.dashboard.url)
        browser.until(f"{MARBLES} === 2")
        browser.click("#latest li:nth-child(2) button")
        browser.until("document.getElementById('correction').open")
        assert nasty in text(browser, "#correction-labels")
        assert browser.run("[...document.images].every(image => !image.hasAttribute('onerror'))")
    assert not [line for line in browser.console if "alert" in line or "onerror" in line]


def test_logging_in_and_out_on_a_phone(browser: Browser) -> None:
    browser.look_like(**PHONE)
    with Bench(password_hash=passwords.hash_password("correct horse")) as bench:
        browser.open(bench.dashboard.url)
        browser.until("location.pathname === '/login'")
        browser.click("#password")
        browser.type("wrong password")
        browser.press("Enter")
        browser.until("document.getElementById('message').textContent === 'this is not the password'")
        browser.run("document.getElementById('password').value = ''")
        browser.type("correct horse")
        browser.press("Enter")
        browser.until("location.pathname === '/' && !document.getElementById('logout').hidden")
        assert browser.run("document.cookie") == ""
        browser.click("#logout")
        browser.until("location.pathname === '/login'")
        assert bench.get("/state").status == 401


@pytest.mark.parametrize("width", [320, 390, 768, 1400])
def test_nothing_sticks_out_on_any_screen(bench: Bench, browser: Browser, width: int) -> None:
    bench.sort(*(bright(number, (number % 10) / 10) for number in range(1, 25)))
    browser.look_like(width, 800, phone=width < 500)
    browser.open(bench.dashboard.url)
    browser.until(f"{MARBLES} === 24")
    assert browser.run("document.documentElement.scrollWidth") <= width
    boxes = "[...document.querySelectorAll('button, dd, th, h2')].filter(e => e.clientWidth)"
    assert browser.run(f"{boxes}.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.outerHTML)") == []
    if width < 500:
        low = "[...document.querySelectorAll('button')].filter(e => e.clientHeight && e.clientHeight < 32).length"
        assert browser.run(low) == 0


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_stands_out_from_what_is_behind_it(bench: Bench, browser: Browser, dark: bool) -> None:
    """WCAG 2.2, 1.4.3: at least 4.5 to 1, computed from the colours that the browser ends up with."""
    bench.sort(*(bright(number, ok) for number, ok in enumerate((0.99, 0.5, 0.01), start=1)), unseen(4))
    bench.controls.paused = True
    browser.look_like(1180, 900, dark=dark)
    browser.open(bench.dashboard.url)
    browser.until(f"{MARBLES} === 4 && document.getElementById('status').textContent === 'Paused'")
    browser.run(CONTRAST)
    assert browser.run("tooFaint()") == []


CONTRAST = """
window.tooFaint = () => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = c => c.slice(0, 3).map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) {
    const c = numbers(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c;
  } return [255, 255, 255]; };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), faint = [];
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.checkVisibility() || e.closest(':disabled, dialog')) continue;
    const svg = e.namespaceURI.endsWith('svg'), style = getComputedStyle(e);
    const [a, b] = [light(numbers(svg ? style.fill : style.color)), light(behind(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) faint.push(`${ratio.toFixed(2)} ${e.tagName} ${walker.currentNode.data}`);
  }
  return faint;
};
"""


def test_every_control_and_picture_has_a_name(bench: Bench, browser: Browser) -> None:
    bench.sort(bright(1))
    browser.open(bench.dashboard.url)
    browser.until(f"{MARBLES} === 1")
    browser.click("#latest button")
    browser.until("document.getElementById('correction').open")
    tree = browser.accessible()
    named = {"button", "img", "image", "radio", "region", "dialog", "textbox"}
    roles = {role for role, _ in tree}
    assert {"button", "radio", "dialog"} <= roles
    assert [role for role, name in tree if role in named and not name] == []


@pytest.mark.parametrize(("dark", "phone"), [(False, False), (True, True)])
def test_the_page_draws(bench: Bench, browser: Browser, tmp_path: Path, dark: bool, phone: bool) -> None:
    bench.sort(*(bright(number, (number % 10) / 10) for number in range(1, 25)))
    browser.look_like(390 if phone else 1180, 844, dark=dark, phone=phone)
    browser.open(bench.dashboard.url)
    browser.until(f"{MARBLES} === 24")
    shot = Image.open(io.BytesIO(browser.picture(tmp_path / "page.png").read_bytes())).convert("RGB")
    paper = np.median(np.asarray(shot).reshape(-1, 3), axis=0).mean()
    assert paper < 80 if dark else paper > 200
    assert len(shot.getcolors(1 << 24) or []) > 100
