"""What names say: which photo has which label, and what devices wrote about it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okko_cloud.labelling.layout import Beside, Layout, Place, check_label, choose_labels, with_digest
from okko_models.errors import OkkoError

FRAME = "0" * 63 + "1"


def test_the_first_folder_is_the_label_and_the_rest_stays_with_the_photo():
    layout = Layout(["OK/a.jpg", "KO/day 1/ü+%.png", "unlabelled/b.jpg", "c.jpg", "OK/notes.txt"])
    assert layout.place("OK/a.jpg") == Place("OK", "a.jpg")
    assert layout.place("KO/day 1/ü+%.png") == Place("KO", "day 1/ü+%.png")
    assert layout.place("unlabelled/b.jpg") == Place(None, "b.jpg")
    assert layout.place("c.jpg") == Place(None, "c.jpg")
    assert layout.place("OK/notes.txt") is None
    assert layout.folders == ("KO", "OK")


def test_a_folder_that_an_outbox_filled_is_a_device_and_no_label():
    layout = Layout([f"sorter-1/{FRAME}.png", f"sorter-1/{FRAME}.json", "OK/a.jpg"])
    assert layout.place(f"sorter-1/{FRAME}.png") == Place(None, f"sorter-1/{FRAME}.png")
    assert layout.folders == ("OK",)


@pytest.mark.parametrize("other", ["sorter-1/holiday.jpg", f"sorter-1/{'a' * 64}.png"])
def test_a_folder_with_any_other_photo_is_a_label(other: str):
    layout = Layout([f"sorter-1/{FRAME}.png", f"sorter-1/{FRAME}.json", other])
    assert layout.folders == ("sorter-1",)


def test_a_known_label_is_never_taken_for_a_device():
    keys = [f"{folder}/{FRAME}{end}" for folder in ("OK", "chipped") for end in (".png", ".json")]
    assert Layout(keys, ["chipped"]).folders == ("OK", "chipped")


def test_what_a_device_wrote_is_found_wherever_the_photo_went():
    keys = [f"unlabelled/sorter-1/{FRAME}.json", f"unlabelled/sorter-1/{FRAME}.label-2.json", "OK/a.jpg"]
    layout = Layout([*keys, f"unlabelled/sorter-1/{FRAME}.label-10.json", f"KO/sorter-1/{FRAME}.png"])
    found = layout.beside(f"KO/sorter-1/{FRAME}.png", f"sorter-1/{FRAME}.png")
    assert found == Beside(keys[0], f"unlabelled/sorter-1/{FRAME}.label-10.json")
    assert layout.beside("OK/a.jpg", "a.jpg") == Beside(None, None)


def test_a_dataset_whose_labels_stand_in_a_list_is_refused():
    for name in ("photos.csv", "train.lst"):
        with pytest.raises(OkkoError, match="stand in"):
            Layout([name, "OK/a.jpg"])
    assert Layout(["OK/photos.csv", "my-photos.csv"]).folders == ()


def test_labels_are_those_asked_for_then_the_models_then_the_folders():
    assert choose_labels([], [], []) == ("OK", "KO")
    assert choose_labels([], ["KO", "OK", "empty"], []) == ("OK", "KO", "empty")
    assert choose_labels(["good", "bad"], ["KO", "OK"], ["two"]) == ("good", "bad", "two")
    assert choose_labels([], [], ["blue", "KO"]) == ("KO", "blue")
    assert choose_labels([], [], ["blue"]) == ("OK", "KO", "blue")


@pytest.mark.parametrize("label", ["", ".git", "a/b", "..", "a\\b", "unlabelled", "x" * 65, "a\nb", "\0"])
def test_a_label_that_is_no_folder_name_is_refused(label: str):
    with pytest.raises(OkkoError, match="cannot be a label"):
        check_label(label)


def test_one_word_is_one_label_however_its_letters_are_stored():
    assert check_label("gru\u0308n") == "grün"


@given(st.lists(st.text(max_size=30), max_size=12))
def test_any_names_at_all_have_a_place_or_none(names: list[str]):
    keys = [name for name in names if name.lower() != "photos.csv" and not name.lower().endswith(".lst")]
    layout = Layout(keys)
    for key in keys:
        place = layout.place(key)
        assert place is None or key.endswith(place.rest)


def test_a_taken_name_gets_a_part_of_the_digest():
    assert with_digest("OK/a.b.jpg", "0123456789abcdef") == "OK/a.b-0123456789ab.jpg"
