from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from okko_edge.clock import SimulatedClock
from okko_edge.commands.outbox import outbox as command
from okko_edge.events import Counters, Event
from okko_edge.frame_file import decode, digest_of, encode
from okko_edge.outbox import Outbox, OutboxError, OutboxFolder, Reason, Sidecar, Worth, outbox_folder
from okko_edge.outbox import outbox as outbox_module
from okko_edge.outbox.worth import judge
from okko_edge.settings import OutboxSettings
from okko_models.classifier import Classification
from okko_models.decision import Costs, DecisionRule, Verdict
from okko_models.errors import OkkoError
from tests.edge.dashboard_fakes import decision, frame, unseen

LABELS = ("KO", "OK")
RULE = DecisionRule(("OK",), 0.8, 0.2, Costs())


def said(ok, novelty=0.0, rule=RULE):
    probability = np.array([1 - ok, ok], np.float32)
    return Classification(rule.verdict(ok), "OK", probability, ok, np.zeros(3, np.float32), novelty)


def judged(ok, novelty=0.0, *, verdict=None, rule=RULE, near=0.1, share=0.0, lot=0.5):
    answer = said(ok, novelty, rule)
    return judge(verdict or answer.verdict, answer, rule, near=near, random_share=share, lot=lot)


def test_what_the_model_does_not_know_is_worth_a_label():
    assert judged(0.5) == Worth(Reason.UNCERTAIN)
    assert judged(0.99, verdict=Verdict.UNCERTAIN) == Worth(Reason.UNCERTAIN)
    assert judged(0.99, novelty=1.5) == Worth(Reason.UNLIKE_TRAINING, 1.5)
    assert judged(0.85).reason is Reason.NEAR_THRESHOLD
    assert judged(0.15).reason is Reason.NEAR_THRESHOLD
    assert judged(0.81).score > judged(0.85).score > judged(0.89).score > 0
    assert judged(0.99) is None
    assert judged(0.01) is None
    assert judged(0.99, novelty=1.0) is None


def test_of_the_ordinary_a_share_is_kept_by_lot():
    assert judged(0.99, share=0.01, lot=0.009) == Worth(Reason.RANDOM)
    assert judged(0.99, share=0.01, lot=0.01) is None


def test_with_a_threshold_near_certainty_not_every_clear_case_is_near_it():
    strict = DecisionRule(("OK",), 0.98, 0.02, Costs())
    assert judged(0.001, rule=strict) is None
    assert judged(0.999, rule=strict) is None
    assert judged(0.015, rule=strict).reason is Reason.NEAR_THRESHOLD
    assert judged(1.0, rule=DecisionRule(("OK",), 1.0, 0.0, Costs())) is None


@pytest.mark.parametrize("nan", [float("nan"), float("inf")])
def test_what_is_no_number_is_near_nothing(nan):
    assert judged(0.99, novelty=nan) is None
    assert judge(Verdict.KO, said(nan), RULE, near=0.1, random_share=0.0, lot=0.5) is None


def sidecar(number, reason=Reason.RANDOM, score=0.0):
    return Sidecar(
        digest=digest_of(frame(number).image),
        sequence=0,
        unix_s=1.7e9,
        device="bench",
        bundle_digest="a" * 64,
        number=number,
        verdict="OK",
        label="OK",
        probability={"KO": 0.1, "OK": 0.9},
        probability_of_ok=0.9,
        novelty=0.0,
        reason=reason,
        score=score,
    )


def add(store, number, reason=Reason.RANDOM, score=0.0, **options):
    # Noise does not shrink, so every item is nearly as large as the others.
    return store.add(sidecar(number, reason, score), encode(frame(number).image), **options)


def numbers(store):
    return [item.sidecar.number for item in store.items()]


def folder_for(tmp_path, items):
    probe = OutboxFolder(tmp_path / "probe", 10**9)
    add(probe, 1)
    return OutboxFolder(tmp_path / "box", int((items + 0.5) * probe.size))


def test_when_full_the_most_ordinary_go_first(tmp_path):
    store = folder_for(tmp_path, 5)
    for number, (reason, score) in enumerate(
        [
            (Reason.UNCERTAIN, 0.0),
            (Reason.UNLIKE_TRAINING, 1.2),
            (Reason.NEAR_THRESHOLD, 0.9),
            (Reason.NEAR_THRESHOLD, 0.1),
            (Reason.RANDOM, 0.0),
        ],
        1,
    ):
        assert add(store, number, reason, score) == []
    assert [gone.sidecar.number for gone in add(store, 6, Reason.UNLIKE_TRAINING, 3.0)] == [5]
    assert [gone.sidecar.number for gone in add(store, 7, Reason.NEAR_THRESHOLD, 0.5)] == [4]
    assert [gone.sidecar.number for gone in add(store, 8, Reason.UNCERTAIN)] == [7]
    assert [gone.sidecar.number for gone in add(store, 9, Reason.UNCERTAIN)] == [3]
    assert [gone.sidecar.number for gone in add(store, 10, Reason.UNCERTAIN)] == [2]
    assert [gone.sidecar.number for gone in add(store, 11, Reason.UNCERTAIN)] == [6]
    assert numbers(store) == [1, 8, 9, 10, 11]
    assert add(store, 12, Reason.UNCERTAIN) is None
    assert numbers(store) == [1, 8, 9, 10, 11]


def test_of_equals_the_oldest_goes_and_what_is_worth_less_than_all_is_refused(tmp_path):
    store = folder_for(tmp_path, 2)
    add(store, 1)
    add(store, 2)
    assert [gone.sidecar.number for gone in add(store, 3)] == [1]
    add(store, 4, Reason.NEAR_THRESHOLD, 0.5)
    add(store, 5, Reason.NEAR_THRESHOLD, 0.6)
    assert add(store, 6) is None
    assert numbers(store) == [4, 5]


def test_a_labelled_frame_stays_and_an_uploaded_one_goes_before_all_others(tmp_path):
    store = folder_for(tmp_path, 3)
    for number in (1, 2):
        add(store, number)
    add(store, 3, Reason.UNCERTAIN)
    assert store.set_label(sidecar(1).digest, "KO", 1.7e9)
    store.set_sent(sidecar(3).digest, "s3://b/", 0)
    assert [gone.sidecar.number for gone in add(store, 4)] == [3]
    assert [gone.sidecar.number for gone in add(store, 5)] == [2]
    assert numbers(store) == [1, 4, 5]
    # A label that S3 does not have yet makes an uploaded frame precious again.
    store.set_sent(sidecar(4).digest, "s3://b/", 0)
    store.set_label(sidecar(4).digest, "KO", 1.7e9)
    assert [gone.sidecar.number for gone in add(store, 6)] == [5]
    store.set_sent(sidecar(4).digest, "s3://b/", 1)
    assert [gone.sidecar.number for gone in add(store, 7)] == [4]


def test_files_never_take_more_than_the_limit(tmp_path):
    lot = random.Random(0)
    store = folder_for(tmp_path, 6)
    limit = store._max_bytes
    for number in range(1, 60):
        add(store, number, lot.choice([Reason.RANDOM, Reason.NEAR_THRESHOLD, Reason.UNLIKE_TRAINING]), lot.random())
        if lot.random() < 0.3:
            item = lot.choice(store.items())
            store.set_sent(item.sidecar.digest, "s3://b/", 0)
        assert sum(path.stat().st_size for path in store.folder.iterdir()) <= store.size <= limit


def test_everything_is_found_again_after_a_restart(tmp_path):
    store = OutboxFolder(tmp_path, 10**9)
    for number in (1, 2, 3):
        add(store, number, Reason.UNLIKE_TRAINING, 1.5)
    store.set_label(sidecar(2).digest, "KO", 1.7e9)
    store.set_label(sidecar(2).digest, "OK", 1.7e9 + 1)
    store.set_sent(sidecar(3).digest, "s3://b/", 0)
    before = store.items()
    store.close()
    again = OutboxFolder(tmp_path, 10**9)
    assert (again.items(), again.size) == (before, store.size)
    add(again, 4)
    assert [item.sidecar.sequence for item in again.items()] == [1, 2, 3, 4]
    assert again.get(sidecar(2).digest).label.revision == 2


def test_what_a_power_cut_left_half_is_removed_at_the_next_start(tmp_path):
    store = OutboxFolder(tmp_path, 10**9)
    for number in range(1, 8):
        add(store, number)
    store.set_label(sidecar(1).digest, "OK", 1.7e9)
    store.set_label(sidecar(7).digest, "OK", 1.7e9)
    store.close()
    names = [sidecar(number).digest for number in range(1, 8)]
    (tmp_path / f"{names[1]}.json").unlink()  # the power went between image and sidecar
    (tmp_path / f"{names[2]}.png").unlink()
    (tmp_path / f"{names[3]}.json").write_text('{"digest": ')
    (tmp_path / f"{names[4]}.png").write_bytes(b"")
    (tmp_path / f"{names[5]}.json").write_bytes((tmp_path / f"{names[0]}.json").read_bytes())
    (tmp_path / f".{names[5]}.png.part").write_bytes(b"half")
    (tmp_path / f"{names[6]}.json").unlink()
    (tmp_path / "notes.txt").write_text("mine")
    looked = OutboxFolder(tmp_path, None)
    assert numbers(looked) == [1]
    assert len(list(tmp_path.iterdir())) == 16  # looking removes nothing
    again = OutboxFolder(tmp_path, 10**9)
    assert numbers(again) == [1]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"{names[0]}.png", f"{names[0]}.json", f"{names[0]}.label.json", "notes.txt", ".lock"}


def test_a_second_process_removes_nothing_of_what_the_first_is_writing(tmp_path):
    first = OutboxFolder(tmp_path, 10**9)
    (tmp_path / ".half.png.part").write_bytes(b"half")
    OutboxFolder(tmp_path, 10**9).close()
    assert (tmp_path / ".half.png.part").exists()
    first.close()
    OutboxFolder(tmp_path, 10**9).close()
    assert not (tmp_path / ".half.png.part").exists()


KILLED = """
import sys
sys.path[:0] = {roots!r}
from pathlib import Path
from tests.edge.test_outbox import OutboxFolder, Reason, add, sidecar
store = OutboxFolder(Path({path!r}), 60_000)
for number in range({start}, 10**6):
    add(store, number, [Reason.RANDOM, Reason.UNLIKE_TRAINING][number % 2], 1 + number / 10**6)
    if number % 3 == 0:
        store.set_label(sidecar(number).digest, "KO", 1.0)
        store.set_sent(sidecar(number).digest, "s3://b/", number % 2)
    print(number, flush=True)
"""


def test_whatever_the_moment_of_a_kill_every_frame_is_whole_or_gone(tmp_path):
    lot = random.Random(0)
    start = 1
    roots = [str(Path(__file__).parents[2])]
    for _ in range(6):
        program = KILLED.format(roots=roots, path=str(tmp_path), start=start)
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
            for _ in range(lot.randrange(3, 15)):
                start = int(process.stdout.readline()) + 1
            time.sleep(lot.random() * 0.003)
            process.kill()
            start = max([start, *map(int, process.stdout.read().split("\n")[:-1])]) + 1
        store = OutboxFolder(tmp_path, 60_000)
        assert store.items()
        for item in store.items():
            digest = item.sidecar.digest
            decode(store.image(digest), digest=digest, name="frame")
        allowed = {item.sidecar.digest for item in store.items()}
        assert {path.name.split(".")[0] for path in tmp_path.iterdir() if path.name != ".lock"} == allowed
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 60_000
        store.close()


def open_box(folder, told=None, counters=None, **changes):
    options = {"lot": lambda: 0.5, "clock": SimulatedClock(unix_s=1.7e9), "capacity": 100}
    options |= {name: changes.pop(name) for name in list(changes) if name in options}
    return Outbox(
        OutboxSettings(**{"random_share": 0.0, "device": "bench 1/a", **changes}),
        folder=folder,
        labels=LABELS,
        rule=RULE,
        bundle_digest="a" * 64,
        warn=(told if told is not None else []).append,
        counters=counters or Counters(),
        **options,
    )


def test_frames_worth_a_label_are_kept_with_all_that_is_known_about_them(tmp_path):
    counters = Counters()
    box = open_box(tmp_path, counters=counters)
    box.hear(decision(1, 0.99))
    box.hear(decision(2, 0.5, novelty=0.25))
    box.hear(unseen(3))
    box.hear(replace(decision(4), classification=None, error="broken"))
    box.hear(decision(5, 0.99, novelty=2.0))
    box.close()
    assert [item.sidecar.number for item in box.recent(9)] == [5, 2]
    assert [item.sidecar.number for item in box.recent(1)] == [5]
    assert counters[Event.OUTBOX_KEPT] == 2
    kept = box.recent(2)[1].sidecar
    image = frame(2).image
    assert np.array_equal(decode(box.image(kept.digest), digest=digest_of(image), name="x"), image)
    stored = json.loads((tmp_path / f"{digest_of(image)}.json").read_text())
    assert stored.pop("probability") == pytest.approx({"KO": 0.5, "OK": 0.5})
    assert stored == {
        "digest": digest_of(image),
        "sequence": 1,
        "unix_s": 1.7e9,
        "device": "bench-1-a",
        "bundle_digest": "a" * 64,
        "number": 2,
        "verdict": "UNCERTAIN",
        "label": "OK",
        "probability_of_ok": 0.5,
        "novelty": 0.25,
        "reason": "uncertain",
        "score": 0.0,
        "format": 1,
    }


def test_a_random_share_of_the_ordinary_is_kept(tmp_path):
    lot = random.Random(0)
    box = open_box(tmp_path, random_share=0.2, lot=lot.random, capacity=1000)
    for number in range(1, 201):
        box.hear(decision(number, 0.99))
    box.close()
    assert 25 <= len(box.recent(1000)) <= 55
    assert {item.sidecar.reason for item in box.recent(1000)} == {Reason.RANDOM}


def test_full_of_uncertain_frames_it_refuses_and_counts_the_newest(tmp_path):
    counters = Counters()
    box = open_box(tmp_path, counters=counters, max_mb=1)
    count = 0
    size = (320, 240)
    while not counters[Event.OUTBOX_LOST]:
        count += 1
        box.hear(decision(count, 0.99 if count == 1 else 0.5, novelty=2.0, shown=frame(count, size)))
        while counters[Event.OUTBOX_LOST] + counters[Event.OUTBOX_KEPT] < count:
            time.sleep(0.001)
    box.close()
    assert [item.sidecar.number for item in box.recent(99)] == list(range(count - 1, 1, -1))
    assert counters[Event.OUTBOX_EVICTED] == 1
    assert box.store.size <= 1_000_000


def test_a_person_s_label_is_kept_and_may_be_corrected(tmp_path):
    woken = []
    box = open_box(tmp_path)
    box.hear(decision(1, 0.5))
    box.close()
    box.on_change = lambda: woken.append(1)
    digest = digest_of(frame(1).image)
    assert box.label(digest, "KO")
    assert box.label(digest, "KO")
    assert (box.recent(1)[0].label.label, box.recent(1)[0].label.revision) == ("KO", 1)
    assert box.label(digest, "OK")
    assert json.loads((tmp_path / f"{digest}.label.json").read_text()) == {
        "digest": digest,
        "label": "OK",
        "unix_s": 1.7e9,
        "revision": 2,
    }
    assert len(woken) == 3
    assert not box.label("0" * 64, "OK")
    assert not box.label("../../etc/passwd", "OK")
    assert box.image("../../etc/passwd") is None
    with pytest.raises(OutboxError, match="none of the model's labels"):
        box.label(digest, "blue")


def test_an_ordinary_frame_that_a_person_corrects_is_kept_with_its_label(tmp_path):
    box = open_box(tmp_path)
    box.keep(decision(1, 0.99), "KO")
    [item] = box.recent(9)
    assert (item.sidecar.reason, item.sidecar.verdict, item.label.label) == (Reason.CORRECTED, "OK", "KO")
    box.keep(decision(1, 0.99), "OK")
    assert [item.label.label for item in box.recent(9)] == ["OK"]
    with pytest.raises(OutboxError, match="no frame"):
        box.keep(unseen(2), "OK")
    with pytest.raises(OutboxError, match="labels"):
        box.keep(decision(2), "blue")
    box.close()


def test_a_disk_that_hangs_holds_up_nobody(tmp_path, monkeypatch):
    answers, asked = threading.Event(), threading.Event()

    def slow(image):
        asked.set()
        answers.wait(30)
        return encode(image)

    monkeypatch.setattr(outbox_module, "encode", slow)
    counters = Counters()
    box = open_box(tmp_path, counters=counters, capacity=3)
    box.hear(decision(1, 0.5))
    assert asked.wait(10)
    for number in range(2, 21):
        box.hear(decision(number, 0.5))  # would never come back if it waited
    answers.set()
    box.close()
    assert (counters[Event.OUTBOX_KEPT], counters[Event.OUTBOX_LOST]) == (4, 16)


def test_a_full_disk_is_said_once_counted_and_left_behind_when_there_is_room_again(tmp_path, monkeypatch):
    from okko_edge.outbox import store

    real, told, counters = store.write_whole, [], Counters()
    full = threading.Event()
    full.set()

    def write(path, data):
        if full.is_set() and path.suffix == ".json":
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(store, "write_whole", write)
    box = open_box(tmp_path, told, counters)
    for number in (1, 2, 3):
        box.hear(decision(number, 0.5))
    while counters[Event.OUTBOX_LOST] < 3:
        time.sleep(0.001)
    assert list(tmp_path.glob("*.png")) == []
    full.clear()
    box.hear(decision(4, 0.5))
    box.close()
    assert [item.sidecar.number for item in box.recent(9)] == [4]
    assert len(told) == 1
    assert "No space" in told[0]


def test_a_place_that_cannot_be_an_outbox_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutboxError, match=r"outbox\.folder"):
        open_box(tmp_path / "file" / "outbox")


def test_the_outbox_lives_in_the_state_directory_unless_set(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert outbox_folder(OutboxSettings()) == tmp_path / "okko" / "outbox"
    assert outbox_folder(OutboxSettings(folder="/data/box")) == Path("/data/box")


def okko_outbox(*arguments):
    return CliRunner().invoke(command, list(map(str, arguments)), env={"OKKO_CONFIG": ""})


def test_the_command_says_what_waits_and_why(tmp_path):
    store = OutboxFolder(tmp_path / "box", 10**9)
    for number, reason in enumerate([Reason.UNCERTAIN, Reason.UNCERTAIN, Reason.RANDOM], 1):
        add(store, number, reason)
    store.set_label(sidecar(1).digest, "KO", 1.7e9)
    store.set_sent(sidecar(2).digest, "s3://b/p/", 0)
    config = tmp_path / "okko.toml"
    config.write_text('[outbox]\nfolder = "box"\nbucket = "s3://b/p"\nmax_mb = 5\n')
    told = json.loads(okko_outbox("--config", config, "--json").stdout)
    assert (told["frames"], told["waiting"], told["labelled"], told["max_mb"]) == (3, 2, 1, 5)
    assert told["reasons"] == {
        "uncertain": 2,
        "corrected": 0,
        "unlike training": 0,
        "near a threshold": 0,
        "random": 1,
    }
    lines = okko_outbox("--config", config).stdout.splitlines()
    assert "3 frames" in lines[0]
    assert "2 frames" in lines[1]
    assert lines[3].split()[:2] == ["uncertain", "2"]


def test_the_command_names_an_outbox_that_is_not_there(tmp_path):
    missing = okko_outbox("--folder", tmp_path / "nowhere")
    assert isinstance(missing.exception, OkkoError)
    assert "does not exist" in str(missing.exception)
    nowhere_to_go = okko_outbox("upload", "--folder", tmp_path)
    assert "outbox.bucket" in str(nowhere_to_go.exception)
