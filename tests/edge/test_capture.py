from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from okko_edge import capture as module
from okko_edge.capture import Capture, CaptureError, check_label, looks_like
from okko_edge.clock import SimulatedClock
from okko_edge.commands.capture import capture as command
from okko_edge.events import Counters
from okko_edge.frame import Frame
from okko_edge.frame_file import digest_of
from okko_edge.gate import NoGate
from okko_edge.gates.scheduled import ScheduledGate
from okko_edge.rig import Rig
from okko_edge.settings import Settings
from okko_edge.trigger import EveryFrame, thumbnail
from okko_models.errors import OkkoError
from tests.edge.fakes import photo


class Frames:
    """A camera that hands out these images, 0.1 s apart on a simulated clock."""

    def __init__(self, clock, images):
        self._clock, self._images, self.read_count = clock, iter(images), 0
        self.closed = False

    def read(self, timeout_s=None):
        image = next(self._images, None)
        if image is None:
            return None
        self._clock.sleep_until(self._clock.now_s() + 0.1)
        self.read_count += 1
        return Frame(image, self._clock.now_s(), self.read_count)

    def close(self):
        self.closed = True


class NeverGate(NoGate):
    """A gate that must not be asked to move."""

    def sort(self, position, arrived_at_s, /):
        return True

    def test(self, position, /):
        raise AssertionError("the gate moved")


def run(folder, images, *, count=None, label="OK", trigger=None, told=None):
    clock = SimulatedClock(100.0, 1_700_000_000.0)
    rig = Rig(Frames(clock, images), trigger or EveryFrame(), NeverGate(), clock)
    told = [] if told is None else told
    return Capture(
        folder, settings=Settings(), rig=rig, counters=Counters(), count=count, label=label, tell=told.append
    ).run()


def different(count, size=(64, 48)):
    return [photo(120, seed, size) for seed in range(count)]


def photos_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_one_photo_is_stored_for_each_marble_and_holds_its_very_pixels(tmp_path):
    images = different(5)
    done = run(tmp_path / "OK", images)
    assert (done.stored, done.failure, done.nearly_equal) == (5, None, 0)
    stored = [np.asarray(Image.open(path)) for path in photos_in(tmp_path)]
    assert all((one == other).all() for one, other in zip(stored, images, strict=True))
    for path, image in zip(photos_in(tmp_path), images, strict=True):
        assert path.stem.endswith(digest_of(image)[:12])


def test_a_second_run_at_the_same_second_overwrites_nothing(tmp_path):
    run(tmp_path, different(3))
    before = {path: path.read_bytes() for path in photos_in(tmp_path)}
    run(tmp_path, [photo(90, seed, (64, 48)) for seed in range(50, 53)])
    assert len(photos_in(tmp_path)) == 6
    assert all(path.read_bytes() == data for path, data in before.items())


def test_it_stops_at_the_count_that_was_asked_for(tmp_path):
    done = run(tmp_path, different(9), count=4)
    assert (done.stored, len(photos_in(tmp_path)), done.failure) == (4, 4, None)


def test_fewer_photos_than_asked_for_is_a_failure_that_says_so(tmp_path):
    assert "only 2 of 5 photos" in run(tmp_path, different(2), count=5).failure
    assert "no marble" in run(tmp_path / "none", [], count=5).failure


def test_black_frames_are_refused_and_told_of_once(tmp_path):
    told = []
    black = np.zeros((48, 64, 3), np.uint8)
    first, second = different(2)
    done = run(tmp_path, [first, black, black, second], told=told)
    assert (done.stored, done.black) == (2, 2)
    assert len(told) == 1
    assert "lamp" in told[0]


def test_the_very_same_frame_again_is_refused(tmp_path):
    told = []
    first, second = different(2)
    done = run(tmp_path, [first, first, second], told=told)
    assert (done.stored, done.repeated) == (2, 1)
    assert "very same frame" in told[0]


def test_a_belt_that_stands_still_is_noticed_by_photos_that_are_nearly_equal(tmp_path):
    noise = np.random.default_rng(0)
    view = photo(120, 1, (320, 240)).astype(float)
    frames = [np.clip(view + noise.normal(0, 2, view.shape) + lamp, 0, 255).astype(np.uint8) for lamp in (0, 0, 3)]
    told = []
    done = run(tmp_path, [*frames, photo(120, 2, (320, 240))], told=told)
    assert (done.stored, done.nearly_equal) == (4, 2)
    assert told == ["photo 2 looks like the one before; did the belt or the camera stop?"]


def test_two_marbles_are_not_nearly_equal_though_only_a_tenth_of_the_view_differs():
    view = photo(120, 1, (320, 240))
    other = view.copy()
    other[80:160, 110:210] = photo(140, 9, (100, 80))
    assert not looks_like(thumbnail(view), thumbnail(other))
    assert looks_like(thumbnail(view), thumbnail(view))


class TwoAtOnce:
    def see(self, frame):
        return (frame.captured_at_s, frame.captured_at_s)

    def poll(self, now_s):
        return ()

    def close(self):
        pass


def test_two_marbles_in_view_are_no_photo_of_one(tmp_path):
    done = run(tmp_path, different(2), trigger=TwoAtOnce())
    assert (done.stored, done.crowded) == (0, 4)


def test_a_frame_with_two_is_stored_once_where_two_is_the_label(tmp_path):
    assert run(tmp_path, different(2), trigger=TwoAtOnce(), label="two").stored == 2


def test_a_full_disk_ends_the_run_with_a_plain_sentence_and_leaves_whole_photos(tmp_path, monkeypatch):
    write, written = module.write_whole, []

    def full_after_two(path, data):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        write(path, data)

    monkeypatch.setattr(module, "write_whole", full_after_two)
    done = run(tmp_path, different(200))
    assert "the disk is full" in done.failure
    assert "2 photos" in done.failure
    assert (done.stored, sorted(written)) == (2, photos_in(tmp_path))


@pytest.mark.parametrize("label", ["", "  ", "../out", "a/b", "a\\b", ".hidden", "x" * 65, "new\nline"])
def test_a_label_that_is_no_folder_name_is_refused(label):
    with pytest.raises(CaptureError, match="cannot be a label"):
        check_label(label)


def test_a_folder_that_cannot_be_made_is_a_plain_sentence(tmp_path):
    (tmp_path / "OK").write_text("a file")
    with pytest.raises(CaptureError, match="cannot be made"):
        run(tmp_path / "OK", different(1))


# --- the command ---


@pytest.fixture
def marbles(tmp_path):
    folder = tmp_path / "marbles"
    for label, level in (("OK", 150), ("KO", 70)):
        (folder / label).mkdir(parents=True)
        for seed in range(3):
            Image.fromarray(photo(level, seed, (64, 48))).save(folder / label / f"{seed}.png")
    return folder


def invoke(*arguments):
    return CliRunner().invoke(command, [str(each) for each in arguments], env={"OKKO_CONFIG": ""})


@pytest.mark.parametrize("kind", ["sim", "folder"])
def test_the_command_stores_under_the_label_and_prints_json_alone(tmp_path, marbles, kind):
    out = tmp_path / "photos"
    done = invoke(out, "--label", "KO", "--camera", f"{kind}:{marbles}", "--pace", "fast", "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["stored"], summary["failure"], summary["stopped"]) == (6, None, False)
    assert {path.parent for path in photos_in(out)} == {out / "KO"}
    assert summary["folder"] == str(out / "KO")


def test_without_a_label_photos_go_to_unlabelled(tmp_path, marbles):
    assert invoke(tmp_path / "photos", "--camera", f"sim:{marbles}", "--pace", "fast", "--count", 2).exit_code == 0
    assert len(photos_in(tmp_path / "photos" / "unlabelled")) == 2


def test_the_gate_of_the_configuration_is_never_opened(tmp_path, marbles, monkeypatch):
    def moved(*_, **__):
        raise AssertionError("a gate was opened")

    monkeypatch.setattr(ScheduledGate, "__init__", moved)
    config = tmp_path / "okko.toml"
    config.write_text(f'[camera]\nsource = "sim:{marbles}"\n[gate]\nkind = "servo:18"\n')
    done = invoke(tmp_path / "photos", "--label", "OK", "--config", config, "--pace", "fast", "--count", 2)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["photos"], "no camera is named"),
        (["photos", "--camera", "film:roll"], "there is no camera"),
        (["photos", "--camera", "pi", "--pace", "fast"], "cannot be hurried"),
    ],
)
def test_wrong_usage_is_told_with_exit_code_2(tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert says in done.output


def test_a_wrong_label_or_an_empty_folder_is_an_error_for_the_user(tmp_path, marbles):
    for arguments in (["--label", "../x", "--camera", f"sim:{marbles}"], ["--camera", f"sim:{tmp_path / 'nothing'}"]):
        done = invoke(tmp_path / "photos", *arguments)
        assert isinstance(done.exception, OkkoError)


def test_ctrl_c_ends_it_cleanly_with_whole_photos_and_a_summary(tmp_path, marbles):
    program = "from okko_edge.commands.capture import capture; capture()"
    arguments = [tmp_path / "photos", "--label", "OK", "--camera", f"sim:{marbles}", "--count", "100000", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OKKO_CONFIG": "", "OMP_NUM_THREADS": "1"},
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        while not photos_in(tmp_path / "photos"):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
    summary = json.loads(out)
    assert process.returncode == 0
    assert summary["stopped"]
    assert summary["stored"] == len(photos_in(tmp_path / "photos"))
    for path in photos_in(tmp_path / "photos"):
        Image.open(path).load()
