"""The page in a real Chromium: keys pressed, two people at once, a phone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.cloud.labelling.rooms import Bucket, Folder, Room, bucket_name, enter, png, serve
from tests.edge.devtools import Browser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from okko_models.classifier import Classifier

SHOWN = "document.querySelector('#photo:not([hidden])')?.complete && photos[here].ready && photos[here].name"


class Keys(Browser):
    """A browser whose keys are pressed like a person's."""

    def key(self, name: str) -> None:
        codes = {"ArrowLeft": 37, "ArrowRight": 39}
        fields = {"key": name, "windowsVirtualKeyCode": codes.get(name) or ord(name.upper())}
        text = {} if name in codes else {"text": name}
        self._call("Input.dispatchKeyEvent", type="keyDown", **fields, **text)
        self._call("Input.dispatchKeyEvent", type="keyUp", **fields)

    def text(self, selector: str) -> str:
        found: str = self.run(f"document.querySelector({selector!r}).innerText")
        return found

    def photo(self) -> str:
        """Waits until a photo is in view and returns its name."""
        name: str = self.until(SHOWN)
        return name

    def settle(self) -> None:
        """Waits until everything that the person said is stored."""
        self.until("photos.every((photo) => !photo.pending)")


@pytest.fixture(scope="module")
def first() -> Iterator[Keys]:
    with Keys() as running:
        yield running


@pytest.fixture(scope="module")
def second() -> Iterator[Keys]:
    with Keys() as running:
        yield running


@pytest.fixture(autouse=True)
def a_fresh_desktop(first: Keys, second: Keys) -> Iterator[None]:
    for browser in (first, second):
        browser.console.clear()
        browser.look_like(1180, 860)
    yield
    for browser in (first, second):
        # A page that still has something to store asks before it is left.
        browser.until("typeof photos === 'undefined' || photos.every((photo) => !photo.pending)")
        browser.open("data:text/html,away")


@pytest.fixture
def room(folder: Folder, model: Classifier) -> Room:
    reds = {"doubt1": 126, "doubt2": 120, "near": 165, "sure1": 220, "sure2": 230}
    folder.put({f"unlabelled/{name}.png": png(red, red) for name, red in reds.items()})
    folder.put({"KO/wrong.png": png(225, 1), "KO/right.png": png(20, 2), "OK/right.png": png(210, 3)})
    return enter(folder, model, clock=time.time).look()


def test_keys_label_skip_go_back_and_undo_without_a_reload(room: Room, folder: Folder, first: Keys):
    with serve(room, "Anna") as url:
        first.open(url)
        first.run("window.notReloaded = true")
        assert first.photo() == "unlabelled/doubt1.png"
        assert first.text("#reason").lower() == "the model is uncertain"
        assert "The model says KO, 52 % sure" in first.text("#guess")
        first.key("o")
        assert first.photo() == "unlabelled/doubt2.png"
        first.key("k")
        assert first.photo() == "KO/wrong.png"
        assert first.text("#reason").lower() == "the label is likely wrong"
        assert first.text("#stored") == "It is labelled KO."
        first.key("s")
        assert first.photo() == "unlabelled/near.png"
        first.settle()
        assert {"OK/doubt1.png", "KO/doubt2.png", "KO/wrong.png", "unlabelled/near.png"} <= folder.files().keys()
        first.key("u")
        assert first.photo() == "KO/wrong.png"
        assert first.text("#said") == ""
        first.key("u")
        assert first.photo() == "unlabelled/doubt2.png"
        first.settle()
        assert "unlabelled/doubt2.png" in folder.files()
        first.key("ArrowLeft")
        assert first.photo() == "unlabelled/doubt1.png"
        assert first.text("#said") == "You said OK."
        assert first.run("document.querySelector('[data-label=OK]').getAttribute('aria-pressed')") == "true"
        first.key("K")
        assert first.photo() == "unlabelled/doubt2.png"
        first.settle()
        assert {"KO/doubt1.png", "unlabelled/doubt2.png"} <= folder.files().keys()
        assert first.run("window.notReloaded")
        first.until("document.querySelector('#sum').innerText.startsWith('1 done, 5 left')")
        assert first.console == []


def test_digits_are_for_other_labels_and_a_held_key_labels_one_photo(folder: Folder, first: Keys):
    folder.put({f"unlabelled/{number}.png": png(number, number) for number in range(4)})
    room = enter(folder, clock=time.time, asked=["OK", "KO", "two", "empty"]).look()
    with serve(room, "Anna") as url:
        first.open(url)
        one = first.photo()
        assert first.text("#choices").split() == ["OK", "O", "KO", "K", "two", "1", "empty", "2"]
        first.key("2")
        other = first.photo()
        first.run("dispatchEvent(new KeyboardEvent('keydown', {key: 'o', repeat: true}))")
        first.run("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'o', repeat: true}))")
        first.run("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'o', ctrlKey: true}))")
        first.settle()
        assert first.photo() == other
        assert sum(name.startswith("empty/") for name in folder.files()) == 1
        assert one.replace("unlabelled/", "empty/") in folder.files()


def test_a_name_can_be_typed_without_labelling_anything(room: Room, folder: Folder, first: Keys):
    before = folder.files()
    with serve(room, "anna") as url:
        first.open(url)
        first.photo()
        first.click("#who")
        for letter in "Koko":
            first.key(letter)
        first.press("Enter")
        assert first.run("document.querySelector('#who').value") == "Koko"
        assert folder.files() == before
        first.key("o")
        first.until("photos[0].revision === 1")
    assert {decision.who for decision in room.book.all()} == {"Koko"}


def test_two_people_are_shown_different_photos(folder: Folder, first: Keys, second: Keys):
    folder.put({f"unlabelled/{number}.png": png(number, number) for number in range(8)})
    here, there = enter(folder, clock=time.time).look(), enter(folder, clock=time.time).look()
    with serve(here, "Anna") as annas, serve(there, "Bert") as berts:
        first.open(annas)
        second.open(berts)
        for browser in (first, second):
            browser.until("photos.length >= 3")
        names = [set(browser.run("photos.map((photo) => photo.name)")) for browser in (first, second)]
        assert not names[0] & names[1]


def test_of_two_who_decide_differently_the_second_is_shown_the_firsts_decision(
    folder: Folder, first: Keys, second: Keys
):
    folder.put({"unlabelled/one.png": png(1)})
    here, there = enter(folder, clock=time.time).look(), enter(folder, clock=time.time).look()
    with serve(here, "Anna") as annas, serve(there, "Bert") as berts:
        first.open(annas)
        first.photo()
        here.desk.leave(first.run("session"))  # as if she had looked at it until her lease ended
        second.open(berts)
        second.photo()
        first.key("o")
        first.settle()
        second.key("k")
        second.settle()
        told = second.text("#notice")
        assert told.startswith("Anna said OK of unlabelled/one.png at ")
        assert "your KO was not stored" in told
        assert list(folder.files()) == ["OK/one.png"]
        second.key("ArrowLeft")
        assert second.text("#said").startswith("Anna said OK at ")
        assert "You said" not in second.text("#said")
        second.key("k")
        second.settle()
        assert list(folder.files()) == ["KO/one.png"]
        first.key("u")
        first.settle()
        assert first.text("#notice").startswith("Bert said KO of unlabelled/one.png")
        assert list(folder.files()) == ["KO/one.png"]


def test_two_people_label_a_bucket_to_its_end_and_every_photo_is_decided_once(
    client: object, first: Keys, second: Keys
):
    bucket = Bucket(client, bucket_name())
    photos = {f"unlabelled/{number}.png": png(number, number) for number in range(12)}
    bucket.put(photos)
    here, there = enter(bucket, clock=time.time).look(), enter(bucket, clock=time.time).look()
    with serve(here, "Anna") as annas, serve(there, "Bert") as berts:
        first.open(annas)
        second.open(berts)
        said = {first: 0, second: 0}
        end_s = time.monotonic() + 60
        while any(key.startswith("unlabelled/") for key in bucket.files()):
            assert time.monotonic() < end_s
            for browser, key in ((first, "o"), (second, "k")):
                if browser.run(SHOWN):
                    browser.key(key)
                    said[browser] += 1
            time.sleep(0.1)
        first.settle()
        second.settle()
        first.until("document.querySelector('#empty').innerText.includes('Nothing is left to label')")
    assert sum(said.values()) == len(photos)
    assert sorted(bucket.files().values()) == sorted(photos.values())
    assert len([name for name in bucket.own() if name.startswith("decisions/")]) == len(photos)
    assert not [name for name in bucket.own() if name.startswith("leases/")]


def test_an_unreadable_photo_says_why_and_takes_no_label(folder: Folder, first: Keys):
    folder.put({"unlabelled/bad.png": png(1)[:150]})
    with serve(enter(folder, clock=time.time).look(), "Anna") as url:
        first.open(url)
        first.until("document.querySelector('#empty').innerText.includes('damaged or cut off')")
        first.key("o")
        first.key("s")
        first.until("document.querySelector('#empty').innerText.includes('Nothing is left for you')")
    assert list(folder.files()) == ["unlabelled/bad.png"]


def test_the_next_photos_are_there_before_they_are_needed(room: Room, first: Keys):
    with serve(room, "Anna") as url:
        first.open(url)
        first.photo()
        first.until("photos.slice(here).filter((photo) => photo.ready).length >= 3")
        first.key("o")
        # What comes next is in view without anything being asked for.
        assert first.run(SHOWN) == "unlabelled/doubt2.png"


def test_closing_the_window_lets_others_have_its_photos(room: Room, first: Keys):
    with serve(room, "Anna") as url:
        first.open(url)
        first.photo()
        first.until("photos.length >= 3")
        first.open("data:text/html,away")
        end_s = time.monotonic() + 10
        while any(room.desk._leased_s.values()):
            assert time.monotonic() < end_s
            time.sleep(0.05)


def test_when_okko_has_ended_the_page_says_so_and_keeps_the_photo(room: Room, first: Keys):
    with serve(room, "Anna") as url:
        first.open(url)
        name = first.photo()
    first.key("o")
    first.settle()
    assert "okko does not answer" in first.text("#notice")
    first.key("ArrowLeft")
    assert first.photo() == name
    assert first.run("photos[here].label_now") is None


@pytest.mark.parametrize(("width", "height"), [(390, 844), (360, 640)])
def test_on_a_phone_photo_and_buttons_are_in_view_and_work_by_touch(room: Room, first: Keys, width: int, height: int):
    first.look_like(width, height, phone=True)
    with serve(room, "Anna") as url:
        first.open(url)
        name = first.photo()
        assert first.run("document.documentElement.scrollWidth <= innerWidth")
        bottom = "document.querySelector('#skip').getBoundingClientRect().bottom"
        assert first.run(f"{bottom} <= innerHeight")
        assert first.run("document.querySelector('[data-label=OK]').getBoundingClientRect().height") >= 44
        first.click("[data-label=OK]")
        assert first.photo() != name
        first.settle()
        first.click("#undo")
        assert first.photo() == name


def test_a_hostile_file_name_and_label_are_shown_as_text(folder: Folder, first: Keys):
    evil = "<img src=x onerror=alert(1)>"
    folder.put({f"unlabelled/{evil}.png": png(1), f"{evil}/b.png".replace("/b", "b") + "/c.png": png(2)})
    with serve(enter(folder, clock=time.time).look(), "Anna") as url:
        first.open(url)
        first.photo()
        assert evil in first.text("#name")
        assert first.run("document.querySelectorAll('img').length") == 2
        assert first.console == []


def test_everything_has_a_name_for_a_screen_reader(room: Room, first: Keys):
    with serve(room, "Anna") as url:
        first.open(url)
        first.photo()
        nodes = first.accessible()
    assert ("button", "OK O") in nodes
    assert ("image", "unlabelled/doubt1.png") in nodes
    assert not [node for node in nodes if node[0] in {"button", "textbox", "image"} and not node[1]]
