from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from PIL import Image

from okko_edge import kept_frames
from okko_edge.events import Counters, Event
from okko_edge.frame_file import FrameFileError, decode, digest_of, encode, is_digest, write_whole
from okko_edge.kept_frames import FrameFolder, KeptFrames, find_frames, frames_folder
from tests.edge.dashboard_fakes import decision, frame, unseen


def image(number, size=(64, 48)):
    return frame(number, size).image


def add(folder, number):
    folder.add(digest_of(image(number)), encode(image(number)))


def kept(folder):
    return {digest for digest, _ in find_frames(folder)}


@pytest.mark.parametrize("size", [(1, 1), (64, 48), (3000, 20)])
def test_a_frame_comes_back_pixel_by_pixel(size):
    before = image(1, size)
    after = decode(encode(before), digest=digest_of(before), name="x")
    assert after.dtype == np.uint8
    assert np.array_equal(after, before)


def test_a_file_that_holds_another_frame_or_none_is_refused(tmp_path):
    good = encode(image(1))
    digest = digest_of(image(1))
    Image.fromarray(image(1)).convert("L").save(tmp_path / "grey.png")
    for data in (encode(image(2)), good[:200], b"", b"hello", (tmp_path / "grey.png").read_bytes()):
        with pytest.raises(FrameFileError, match=r"frame\.png"):
            decode(data, digest=digest, name="frame.png")


def test_a_digest_is_not_a_path():
    assert is_digest("0" * 64)
    assert not any(map(is_digest, ("", "0" * 63, "../" + "0" * 61, "A" * 64, "0" * 64 + "\n")))


def test_a_file_that_cannot_be_written_leaves_the_one_before_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a"
    write_whole(path, b"before")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_every_decision_with_a_frame_is_kept_under_the_digest_that_the_journal_names(tmp_path):
    frames = KeptFrames(tmp_path / "new" / "frames", max_mb=10, warn=print)
    for number in range(1, 5):
        frames.hear(decision(number))
    frames.hear(unseen(5))
    frames.close()
    assert frames.kept == 4
    files = dict(find_frames(tmp_path / "new" / "frames"))
    assert set(files) == {digest_of(image(number)) for number in range(1, 5)}
    for digest, path in files.items():
        decode(path.read_bytes(), digest=digest, name=path.name)


def test_the_oldest_frames_make_room_for_new_ones_also_after_a_restart(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_frames, "SHELF", 3)
    one = len(encode(image(1)))
    for start in (1, 6, 11):
        folder = FrameFolder(tmp_path, max_bytes=5 * one + one // 2)
        for number in range(start, start + 5):
            add(folder, number)
            assert folder.size == sum(path.stat().st_size for _, path in find_frames(tmp_path)) <= 5.5 * one
    assert kept(tmp_path) == {digest_of(image(number)) for number in range(11, 16)}
    assert len(list(tmp_path.iterdir())) <= 3


def test_a_clock_that_jumps_back_does_not_make_new_frames_the_oldest(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_frames, "SHELF", 2)
    one = len(encode(image(1)))
    folder = FrameFolder(tmp_path, max_bytes=5 * one + one // 2)
    for number in range(1, 11):
        add(folder, number)
        if number > 6:
            for digest, path in find_frames(tmp_path):
                if digest == digest_of(image(number)):
                    os.utime(path, (0, 0))  # 1970
    assert {digest_of(image(number)) for number in (9, 10)} <= kept(tmp_path)
    assert len(kept(tmp_path)) == 5


def test_the_same_frame_is_kept_once(tmp_path):
    folder = FrameFolder(tmp_path, max_bytes=10**6)
    add(folder, 1)
    add(folder, 1)
    assert folder.size == len(encode(image(1)))


def test_what_a_power_cut_left_half_is_removed_at_the_next_start(tmp_path):
    add(FrameFolder(tmp_path, max_bytes=10**6), 1)
    shelf = tmp_path / "000000001"
    (shelf / ".x.png.part").write_bytes(b"half")
    (shelf / f"{'0' * 64}.png").write_bytes(b"")
    folder = FrameFolder(tmp_path, max_bytes=10**6)
    assert [path.name for path in shelf.iterdir()] == [f"{digest_of(image(1))}.png"]
    assert folder.size == len(encode(image(1)))


def test_a_frame_larger_than_the_folder_may_be_removes_nothing(tmp_path):
    folder = FrameFolder(tmp_path, max_bytes=2 * len(encode(image(1))))
    add(folder, 1)
    large = image(2, (640, 480))
    with pytest.raises(OSError, match="more than"):
        folder.add(digest_of(large), encode(large))
    assert kept(tmp_path) == {digest_of(image(1))}


def test_a_folder_that_cannot_be_written_is_said_once_and_every_frame_counted(tmp_path):
    (tmp_path / "file").write_text("")
    told, counters = [], Counters()
    frames = KeptFrames(tmp_path / "file" / "frames", max_mb=1, warn=told.append, counters=counters)
    for number in range(1, 6):
        frames.hear(decision(number))
    frames.close()
    assert (frames.kept, counters[Event.FRAME_LOST], len(told)) == (0, 5, 1)


def test_a_disk_that_hangs_holds_up_nobody(tmp_path, monkeypatch):
    answers, asked = threading.Event(), threading.Event()

    def slow(data):
        asked.set()
        answers.wait(30)
        return encode(data)

    monkeypatch.setattr(kept_frames, "encode", slow)
    counters = Counters()
    frames = KeptFrames(tmp_path, max_mb=10, warn=print, counters=counters, capacity=3)
    frames.hear(decision(1))
    assert asked.wait(10)
    for number in range(2, 21):
        frames.hear(decision(number))  # would never come back if it waited
    answers.set()
    frames.close()
    assert (frames.kept, counters[Event.FRAME_LOST]) == (4, 16)


def test_frames_lie_beside_their_journal(tmp_path):
    assert frames_folder(tmp_path / "journal.sqlite") == tmp_path / "journal-frames"
