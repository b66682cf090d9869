"""The page on which the region is drawn, in a real browser: a drag gives the flag that `okko train` takes."""

from __future__ import annotations

import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from okko_train.commands.data import data
from okko_train.commands.train import train
from tests.browser import open_page, screenshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A page beside the real one, which drags on it as a hand would and notes what it then says.
HAND = """<!doctype html><body><iframe src="region.html" width="900" height="1200"></iframe><pre></pre><script>
document.querySelector("iframe").addEventListener("load", event => {
  const page = event.target.contentDocument, stage = page.querySelector(".stage");
  const box = stage.getBoundingClientRect(), log = [page.querySelector(".flag > code").textContent];
  const at = (kind, x, y) => stage.dispatchEvent(new event.target.contentWindow.PointerEvent(kind,
    { clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true, cancelable: true }));
  const say = () => log.push(page.querySelector(".flag > code").textContent);
  at("pointerdown", .7, .9); at("pointermove", .5, .5); at("pointermove", .2, .1); at("pointerup", .2, .1); say();
  at("pointermove", .9, .9); say();
  at("pointerdown", .5, .5); at("pointermove", 3, 3); at("pointerup", 3, 3); say();
  at("pointerdown", .4, .4); at("pointermove", .4, .4); at("pointerup", .4, .4); say();
  const [x, , width] = page.querySelectorAll("input");
  x.value = "30"; x.dispatchEvent(new Event("input"));
  width.value = "25.5"; width.dispatchEvent(new Event("input")); say();
  const others = page.querySelectorAll(".others button");
  others[1].click();
  log.push(String(page.querySelector(".stage img").alt === others[1].querySelector("img").alt));
  log.push(page.querySelector(".stage rect").getAttribute("x"));
  document.querySelector("pre").textContent = log.join("|");
});
</script>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("region")
    for index in range(12):
        path = folder / "photos" / ("OK", "KO")[index % 2] / f"a<b>{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 255, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).resize((320, 240)).save(path)
    done = CliRunner().invoke(data, ["roi", str(folder / "photos"), "--out", str(folder / "region.html")])
    assert done.exit_code == 0, done.output
    (folder / "hand.html").write_text(HAND)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_dragging_and_typing_give_the_flag(site) -> None:
    opened = open_page(f"{site[1]}/hand.html")
    said = re.search(r"<pre>(.*?)</pre>", opened.dom)[1].split("|")
    assert said == [
        "--roi 0.25,0.25,0.5,0.5",
        "--roi 0.2,0.1,0.5,0.8",
        "--roi 0.2,0.1,0.5,0.8",
        "--roi 0.5,0.5,0.5,0.5",
        "--roi 0.4,0.4,0.01,0.01",
        "--roi 0.3,0.4,0.255,0.01",
        "true",
        "0.3",
    ]


def test_the_page_opens_from_disk_without_a_complaint_and_asks_no_address(site) -> None:
    opened = open_page(site[0] / "region.html")
    assert opened.console == ()
    page = (site[0] / "region.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "a&lt;b&gt;" in page


def test_the_photo_and_the_rectangle_are_seen_on_a_phone(site, tmp_path) -> None:
    picture = np.asarray(
        Image.open(screenshot(site[0] / "region.html", tmp_path / "phone.png", width=500)).convert("L")
    )
    # The white edge stands out between the photo inside and its shaded rest.
    assert picture.std() > 20
    assert (picture == 255).sum() > 200


def test_a_folder_that_cannot_be_written_to_is_an_error_in_words(site) -> None:
    done = CliRunner().invoke(data, ["roi", str(site[0] / "photos"), "--out", str(site[0] / "no" / "x.html")])
    assert done.exit_code == 1
    assert "cannot be written" in str(done.exception)


@pytest.mark.parametrize("given", ["0.1,0.2", "a,b,c,d", "0.5,0.5,0.6,0.5", "0,0,nan,1", "10,10,100,100"])
def test_a_region_that_is_none_is_bad_usage(given, tmp_path) -> None:
    done = CliRunner().invoke(train, [str(tmp_path), "--out", str(tmp_path / "x.okko"), "--roi", given])
    assert done.exit_code == 2
    assert "X,Y,W,H" in done.output
