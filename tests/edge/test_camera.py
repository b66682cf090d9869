from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from okko_edge.camera import CameraChoice, CameraError, FolderCamera, Slot, load_slots
from okko_edge.clock import SimulatedClock
from okko_edge.events import Counters
from okko_edge.photos import PhotoFolderError, find_photos
from okko_edge.rig import Simulation, set_up
from okko_edge.settings import CameraSettings, Settings
from tests.edge.fakes import photo, save_photo


@pytest.mark.parametrize(
    ("text", "kind", "folder"),
    [("sim:photos", "sim", "photos"), ("folder:/srv/a b", "folder", "/srv/a b"), ("sim:C:x", "sim", "C:x")],
)
def test_a_camera_is_named_by_kind_and_place(text, kind, folder):
    choice = CameraChoice.parse(text)
    assert (choice.kind, choice.folder) == (kind, Path(folder))
    assert str(choice) == text


@pytest.mark.parametrize(
    ("text", "kind", "number", "device"),
    [
        ("pi", "pi", 0, ""),
        ("pi:1", "pi", 1, ""),
        ("v4l2", "v4l2", 0, ""),
        ("v4l2:/dev/v4l/by-id/usb-x:y", "v4l2", 0, "/dev/v4l/by-id/usb-x:y"),
    ],
)
def test_a_real_camera_needs_no_place_but_may_have_one(text, kind, number, device):
    choice = CameraChoice.parse(text)
    assert (choice.kind, choice.number, choice.device) == (kind, number, device)
    assert str(choice) == text
    assert choice.is_hardware


@pytest.mark.parametrize("text", ["", "sim", "sim:", "usb:0", "photos", ":photos", "Sim:photos"])
def test_another_camera_is_refused_with_what_was_expected(text):
    with pytest.raises(ValueError, match="sim:"):
        CameraChoice.parse(text)


@pytest.mark.parametrize("text", ["pi:", "pi:one", "pi:-1", "pi:²", "v4l2:"])
def test_a_real_camera_of_a_place_that_cannot_be_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"expected (pi|v4l2) or"):
        CameraChoice.parse(text)


def listed(folder):
    return [(found.name, found.label) for found in find_photos(folder)]


def test_a_sub_folder_is_a_label(photos):
    (photos / "OK" / "deeper").mkdir()
    save_photo(photos / "OK" / "deeper" / "x.JPG", photo(1, seed=1))
    save_photo(photos / "loose.png", photo(1, seed=1))
    (photos / "OK" / ".hidden.png").write_text("")
    (photos / "notes.txt").write_text("")
    assert [label for _, label in listed(photos)] == ["KO"] * 3 + ["OK"] * 4 + [None]
    assert listed(photos)[-2:] == [("OK/deeper/x.JPG", "OK"), ("loose.png", None)]


def test_a_table_names_photos_and_labels(photos):
    (photos / "photos.csv").write_bytes(b"\xef\xbb\xbffile,label,extra\nOK/bright0.png,good,1\nKO/dark0.png,,2\n")
    assert listed(photos) == [("OK/bright0.png", "good"), ("KO/dark0.png", None)]


def test_a_plain_folder_has_photos_without_truth(photos):
    assert listed(photos / "OK") == [(f"bright{index}.png", None) for index in range(3)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,kind\na.png,OK\n", "no column label"),
        ("", "no column file"),
        (b"file,label\n\xff\xfe.png,OK\n", "UTF-8"),
        ("file,label\n", "holds no photos"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, content, message):
    (tmp_path / "photos.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PhotoFolderError, match=message):
        find_photos(tmp_path)


def test_a_folder_that_is_none_or_empty_is_refused(tmp_path):
    with pytest.raises(PhotoFolderError, match="does not exist"):
        find_photos(tmp_path / "nowhere")
    with pytest.raises(PhotoFolderError, match="holds no photos"):
        find_photos(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(PhotoFolderError, match="is a file"):
        find_photos(tmp_path / "file")


def test_a_photo_that_cannot_be_read_is_left_out_and_named(photos):
    (photos / "OK" / "bright1.png").write_text("not a photo")
    skipped = []
    slots = list(load_slots(find_photos(photos), skipped.append))
    assert len(slots) == 5
    assert len(skipped) == 1
    assert "OK/bright1.png" in str(skipped[0])


def test_a_folder_camera_shows_each_photo_once_at_its_pace():
    images = [photo(100, seed=index) for index in range(3)]
    camera = FolderCamera(
        iter(Slot(image, "OK", str(index)) for index, image in enumerate(images)),
        clock=SimulatedClock(10.0),
        frames_per_s=4,
    )
    frames = list(iter(camera.read, None))
    assert [(frame.photo, frame.sequence, frame.captured_at_s) for frame in frames] == [
        ("0", 0, 10.0),
        ("1", 1, 10.25),
        ("2", 2, 10.5),
    ]
    assert all(np.array_equal(frame.image, image) for frame, image in zip(frames, images, strict=True))
    with pytest.raises(ValueError, match="frames_per_s"):
        FolderCamera(iter([]), clock=SimulatedClock(), frames_per_s=0)


def passing(photos, count, seed=0, skip=lambda _: None):
    """Names of the photos that rest in view of a simulated camera, in order."""
    settings = Settings(camera=CameraSettings(source=f"sim:{photos}"))
    rig = set_up(settings, Simulation(seed=seed, fast=True), count, Counters(), skip)
    frames = list(iter(rig.camera.read, None))
    return [frame.photo for frame in frames if rig.trigger.see(frame)]


def test_a_simulated_belt_carries_each_photo_once_in_an_order_that_the_seed_decides(photos):
    once = passing(photos, None)
    assert sorted(once) == [found.name for found in find_photos(photos)]
    assert once == passing(photos, None)
    assert once != passing(photos, None, seed=1)


def test_a_simulated_belt_starts_again_when_more_marbles_are_wanted(photos):
    names = passing(photos, 15)
    assert len(names) == 15
    assert set(names[:6]) == set(names[6:12])
    assert names[:6] != names[6:12]


def test_a_photo_that_cannot_be_read_is_tried_once_and_takes_no_slot(photos):
    (photos / "OK" / "bright1.png").write_text("not a photo")
    skipped = []
    assert len(passing(photos, 15, skip=skipped.append)) == 15
    assert len(skipped) == 1


def test_a_belt_without_a_readable_photo_says_so_instead_of_turning_for_ever(tmp_path):
    (tmp_path / "a.png").write_text("")
    with pytest.raises(CameraError, match="none of the 1 photos"):
        passing(tmp_path, 5)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "OK/../../secret.png"])
def test_a_list_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    (tmp_path / "photos.csv").write_text(f"file,label\n{name},OK\n")
    with pytest.raises(PhotoFolderError, match="outside"):
        find_photos(tmp_path)
