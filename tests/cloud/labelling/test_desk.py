"""Handing out photos and taking decisions, in a folder and in a bucket: no photo is lost, nobody is overwritten."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from okko_cloud.labelling import photos as photos_module
from okko_cloud.labelling.leases import LEASE_S
from okko_cloud.labelling.photos import MOST_BYTES, FolderPhotos, LabellingError
from okko_edge.events import Counters
from okko_edge.frame_file import digest_of, encode
from okko_edge.outbox import S3, OutboxFolder, Sidecar, Target, Uploader
from okko_edge.outbox import Reason as DeviceReason
from okko_models.errors import OkkoError
from tests.cloud.labelling.rooms import ANNA, BERT, Bucket, Folder, Room, bucket_name, enter, png

if TYPE_CHECKING:
    from pathlib import Path

    from okko_cloud.labelling.desk import Shown
    from okko_models.classifier import Classifier

Place = Folder | Bucket


def take(room: Room, person=ANNA, count: int = 1) -> list[Shown]:
    return room.desk.take(person, count)


def by_name(room: Room, name: str, person=ANNA) -> Shown:
    return next(one for one in room.desk.take(person, 99) if one.entry.key.endswith(name))


def decide(room: Room, one: Shown, label: str, person=ANNA):
    return room.desk.decide(person, one.entry.number, label, one.revision)


def contents(place: Place) -> list[bytes]:
    return sorted(place.files().values())


# --- what is shown first ---


def test_the_most_useful_photos_come_first_each_with_its_reason(folder: Folder, model: Classifier):
    folder.put(
        {
            "unlabelled/sure.png": png(220),
            "unlabelled/doubtful.png": png(128),
            "unlabelled/near.png": png(164),
            "unlabelled/bad.png": b"this is no photo",
            "KO/right.png": png(30),
            "KO/wrong.png": png(225),
            "OK/right.png": png(230),
        }
    )
    assert enter(folder, model).look().queue() == [
        ("unlabelled/doubtful.png", "the model is uncertain"),
        ("KO/wrong.png", "the label is likely wrong"),
        ("unlabelled/near.png", "near a threshold"),
        ("unlabelled/sure.png", "the model is sure"),
        ("unlabelled/bad.png", "unreadable"),
    ]


def test_nothing_is_shown_before_it_is_known_what_is_most_useful(folder: Folder, model: Classifier):
    folder.put({"unlabelled/0.png": png(220), "unlabelled/1.png": png(230), "unlabelled/2.png": png(128)})
    room = enter(folder, model)
    for _ in range(2):
        assert room.catalogue.look_at_next()
        assert take(room) == []
    room.look()
    assert take(room)[0].entry.key == "unlabelled/2.png"


def test_without_a_model_all_unlabelled_photos_wait_and_the_labelled_ones_do_not(place: Place):
    place.put({"unlabelled/a.png": png(1), "b.png": png(2), "OK/c.png": png(3)})
    room = enter(place).look()
    assert {key for key, _ in room.queue()} == {"unlabelled/a.png", "b.png"}
    assert room.catalogue.progress().labels == {"OK": 1, "KO": 0}


def uploaded(device: str, image: np.ndarray, *, said: dict[str, float], reason: DeviceReason, digest_of_model="0" * 64):
    """What a device's outbox puts into a bucket, by the outbox's own code."""
    digest = digest_of(image)
    verdict = "UNCERTAIN" if reason is DeviceReason.UNCERTAIN else "OK" if said["OK"] > 0.5 else "KO"
    sidecar = Sidecar(
        digest=digest,
        sequence=1,
        unix_s=1.0,
        device=device,
        bundle_digest=digest_of_model,
        number=1,
        verdict=verdict,
        label=max(said, key=lambda label: said[label]),
        probability=said,
        probability_of_ok=said["OK"],
        novelty=0.2,
        reason=reason,
        score=0.7,
    )
    return digest, {f"{device}/{digest}.png": encode(image), f"{device}/{digest}.json": as_json(sidecar)}


def as_json(value: object) -> bytes:
    import msgspec

    return msgspec.json.encode(value)


def json_decode(data: bytes) -> Sidecar:
    import msgspec

    return msgspec.json.decode(data, type=Sidecar)


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (24, 32, 3)).astype(np.uint8)


@pytest.mark.parametrize("above", ["", "unlabelled/"])
def test_what_devices_uploaded_is_shown_with_what_they_and_people_there_said(place: Place, above: str):
    unsure, files = uploaded("sorter-1", image(1), said={"KO": 0.6, "OK": 0.4}, reason=DeviceReason.UNCERTAIN)
    sure, more = uploaded("sorter-1", image(2), said={"KO": 0.1, "OK": 0.9}, reason=DeviceReason.RANDOM)
    files = {f"{above}{key}": data for key, data in {**files, **more}.items()}
    labels = [
        json.dumps({"digest": sure, "label": label, "unix_s": 1, "revision": 1}).encode() for label in ("OK", "KO")
    ]
    files |= {f"{above}sorter-1/{sure}.label-{number}.json": data for number, data in enumerate(labels, 1)}
    place.put({**files, "OK/a.png": png(200)})
    room = enter(place).look()
    assert room.queue() == [
        (f"{above}sorter-1/{sure}.png", "corrected at the device"),
        (f"{above}sorter-1/{unsure}.png", "the model is uncertain"),
    ]
    corrected, uncertain = take(room, count=2)
    assert corrected.look.corrected == "KO"
    assert uncertain.look.guess
    assert (uncertain.look.guess.label, uncertain.look.guess.confidence) == ("KO", 0.6)
    assert uncertain.look.guess.by == "the model on sorter-1"
    decide(room, corrected, "KO")
    assert f"KO/sorter-1/{sure}.png" in place.files()
    assert f"{above}sorter-1/{sure}.json" in place.files()


def test_a_photo_that_the_same_model_has_judged_on_the_device_is_not_judged_again(folder: Folder, model: Classifier):
    said = {"KO": 0.55, "OK": 0.45}
    digest, files = uploaded(
        "a", image(3), said=said, reason=DeviceReason.UNCERTAIN, digest_of_model=model.bundle.digest
    )
    folder.put({key: data if key.endswith(".json") else b"never opened" for key, data in files.items()})
    room = enter(folder, model).look()
    assert room.queue() == [(f"a/{digest}.png", "the model is uncertain")]


def test_from_a_devices_outbox_to_a_label_and_back_again_after_a_second_upload(
    client: object, s3_url: str, tmp_path: Path
):
    bucket = Bucket(client, bucket_name(), "photos/")

    def upload(outbox: OutboxFolder) -> None:
        s3 = S3(Target.parse(f"s3://{bucket.name}/photos/unlabelled"), endpoint_url=s3_url)
        done = Uploader(outbox, s3, retry_s=1, warn=lambda _: None, counters=Counters()).upload_waiting()
        assert done.error is None

    frames = [image(seed) for seed in (5, 6)]
    outboxes = [OutboxFolder(tmp_path / name, 10_000_000) for name in ("outbox", "same outbox, restored")]
    for outbox in outboxes:
        for frame in frames:
            digest, files = uploaded("sorter-1", frame, said={"KO": 0.5, "OK": 0.5}, reason=DeviceReason.UNCERTAIN)
            outbox.add(json_decode(files[f"sorter-1/{digest}.json"]), files[f"sorter-1/{digest}.png"])
        outbox.set_label(digest_of(frames[0]), "OK", 1.0)
        outbox.set_label(digest_of(frames[0]), "KO", 2.0)
    upload(outboxes[0])
    room = enter(bucket).look()
    corrected, uncertain = take(room, count=2)
    assert (corrected.look.corrected, uncertain.worth.reason.value) == ("KO", "the model is uncertain")
    decide(room, corrected, "KO")
    decide(room, uncertain, "OK")
    labelled = {key for key in bucket.files() if key.endswith(".png")}
    assert labelled == {f"KO/sorter-1/{digest_of(frames[0])}.png", f"OK/sorter-1/{digest_of(frames[1])}.png"}
    upload(outboxes[1])
    room.catalogue.refresh()
    assert {key for key in bucket.files() if key.endswith(".png")} == labelled
    assert room.queue() == []
    for outbox in outboxes:
        outbox.close()


@pytest.mark.parametrize("damage", [b"", b"{", b'{"device": 3}', b"[]", b"\xff\xfe"])
def test_a_damaged_sidecar_only_means_no_guess(folder: Folder, damage: bytes):
    digest, files = uploaded("a", image(4), said={"KO": 0.5, "OK": 0.5}, reason=DeviceReason.UNCERTAIN)
    folder.put({**files, f"a/{digest}.json": damage, f"a/{digest}.label-1.json": damage})
    assert enter(folder).look().queue() == [(f"a/{digest}.png", "no guess")]


# --- deciding ---


def test_a_decision_moves_the_photo_and_is_written_down(place: Place):
    data = png(1)
    place.put({"unlabelled/day 1/ü+%.png": data})
    room = enter(place).look()
    (one,) = take(room)
    assert decide(room, one, "KO").stands
    assert place.files() == {"KO/day 1/ü+%.png": data}
    (written,) = place.own()
    digest = hashlib.sha256(data).hexdigest()
    assert written == f"decisions/{digest}-000001.json"
    decision = room.book.latest(digest)
    assert decision
    assert (decision.who, decision.was, decision.label, decision.digest) == ("Anna", None, "KO", digest)
    assert (decision.from_key, decision.to_key) == ("unlabelled/day 1/ü+%.png", "KO/day 1/ü+%.png")
    assert decision.unix_s == room.clock.now
    assert (room.queue(), enter(place).look().queue()) == ([], [])


def test_a_likely_wrong_label_is_changed_or_confirmed_and_not_asked_about_again(place: Place, model: Classifier):
    place.put({"KO/wrong.png": png(220), "KO/odd.png": png(225)})
    room = enter(place, model).look()
    for one, label in zip(take(room, count=2), ("OK", "KO"), strict=True):
        decide(room, one, label)
    assert sorted(key.partition("/")[0] for key in place.files()) == ["KO", "OK"]
    assert len(place.own()) == 2
    assert enter(place, model).look().queue() == []


def test_undo_puts_the_photo_back_is_written_down_too_and_the_photo_waits_again(place: Place):
    place.put({"unlabelled/a.png": png(1)})
    room = enter(place).look()
    (one,) = take(room)
    done = decide(room, one, "OK")
    undone = room.desk.undo(ANNA, one.entry.number, done.decision.revision)
    assert undone.stands
    assert (undone.decision.undoes, undone.decision.label, undone.decision.was) == (1, None, "OK")
    assert list(place.files()) == ["unlabelled/a.png"]
    assert len([name for name in place.own() if name.startswith("decisions/")]) == 2
    assert room.queue() == enter(place).look().queue() == [("unlabelled/a.png", "no guess")]
    assert room.desk.decide(ANNA, one.entry.number, "KO", undone.decision.revision).stands
    assert list(place.files()) == ["KO/a.png"]


def test_undo_of_a_changed_label_gives_the_old_label_back(folder: Folder, model: Classifier):
    folder.put({"KO/wrong.png": png(220)})
    room = enter(folder, model).look()
    (one,) = take(room)
    room.desk.undo(ANNA, one.entry.number, decide(room, one, "OK").decision.revision)
    assert list(folder.files()) == ["KO/wrong.png"]
    assert room.queue() == [("KO/wrong.png", "the label is likely wrong")]


def test_another_photo_of_the_same_name_is_never_overwritten(place: Place):
    first, second = png(1, 1), png(2, 2)
    place.put({"unlabelled/a.png": first, "OK/a.png": second})
    room = enter(place).look()
    decide(room, by_name(room, "a.png"), "OK")
    digest = hashlib.sha256(first).hexdigest()
    assert place.files() == {"OK/a.png": second, f"OK/a-{digest[:12]}.png": first}
    assert enter(place).look().queue() == []


def test_the_same_photo_that_is_there_already_counts_as_done(place: Place):
    place.put({"unlabelled/a.png": png(1), "OK/a.png": png(1)})
    room = enter(place).look()
    assert decide(room, by_name(room, "a.png"), "OK").stands
    assert place.files() == {"OK/a.png": png(1)}


def test_a_photo_that_a_device_uploads_again_after_it_was_labelled_goes_away(place: Place):
    place.put({"unlabelled/a/1.png": png(1)})
    room = enter(place).look()
    decide(room, by_name(room, "1.png"), "OK")
    place.put({"unlabelled/a/1.png": png(1)})
    room.catalogue.refresh()
    assert place.files() == {"OK/a/1.png": png(1)}
    assert room.queue() == []


def test_a_photo_moved_back_by_hand_stays_there_and_is_shown_with_what_was_said(folder: Folder):
    folder.put({"unlabelled/a.png": png(1)})
    room = enter(folder).look()
    decide(room, by_name(room, "a.png"), "OK")
    (folder.root / "OK/a.png").rename(folder.root / "unlabelled/a.png")
    again = enter(folder).look()
    (one,) = take(again)
    assert one.decided
    assert (one.decided.who, one.decided.label, one.revision) == ("Anna", "OK", 1)
    assert decide(again, one, "KO").stands
    assert list(folder.files()) == ["KO/a.png"]


def test_what_cannot_be_is_refused_with_a_sentence_and_changes_nothing(folder: Folder):
    folder.put({"unlabelled/a.png": png(1), "unlabelled/bad.png": b"no photo"})
    room = enter(folder).look()
    one, bad = by_name(room, "a.png"), None
    room.desk.leave(ANNA.session)
    for shown in take(room, count=2):
        bad = shown if shown.entry.key.endswith("bad.png") else bad
    assert bad is not None
    assert bad.look.problem
    for number, label, says in [
        (one.entry.number, "../out", "there is no label"),
        (one.entry.number, "blue", "there is no label"),
        (bad.entry.number, "OK", "cannot be read"),
        (999, "OK", "not known here"),
    ]:
        with pytest.raises(OkkoError, match=says):
            room.desk.decide(ANNA, number, label, 0)
    with pytest.raises(OkkoError, match="nothing to undo"):
        room.desk.undo(ANNA, one.entry.number, 1)
    assert sorted(folder.files()) == ["unlabelled/a.png", "unlabelled/bad.png"]


def test_a_photo_that_was_deleted_or_changed_behind_our_back_is_not_moved(place: Place):
    place.put({"unlabelled/a.png": png(1), "unlabelled/b.png": png(2)})
    room = enter(place).look()
    one, other = sorted(take(room, count=2), key=lambda shown: shown.entry.key)
    place.delete("unlabelled/a.png")
    place.put({"unlabelled/b.png": png(3)})
    for shown in (one, other):
        with pytest.raises(OkkoError, match="not there any more, or was changed"):
            decide(room, shown, "OK")
    assert place.files() == {"unlabelled/b.png": png(3)}


# --- several people ---


def test_two_people_are_never_shown_the_same_photo(place: Place):
    place.put({f"unlabelled/{number}.png": png(number, number) for number in range(6)})
    here, there = enter(place).look(), enter(place).look()
    annas = {one.entry.key for one in take(here, ANNA, 3)}
    berts = {one.entry.key for one in take(there, BERT, 9)}
    assert (len(annas), len(berts), annas & berts) == (3, 3, set())


def test_two_windows_at_one_okko_are_two_people(folder: Folder):
    folder.put({f"unlabelled/{number}.png": png(number, number) for number in range(2)})
    room = enter(folder).look()
    assert take(room, ANNA)[0].entry.key != take(room, BERT)[0].entry.key
    assert len(take(room, BERT, 5)) == 1


def test_a_lease_ends_when_it_is_given_back_or_after_some_minutes(place: Place):
    place.put({"unlabelled/a.png": png(1)})
    clock = enter(place).clock
    here, there = enter(place, clock=clock).look(), enter(place, clock=clock).look()
    assert take(here, ANNA)
    assert not take(there, BERT)
    here.desk.leave(ANNA.session)
    clock.now += 25
    assert take(there, BERT)
    clock.now += 25
    assert not take(here, ANNA)
    clock.now += LEASE_S
    assert take(here, ANNA)


def test_a_window_that_is_looked_at_for_long_keeps_its_photo(place: Place):
    place.put({"unlabelled/a.png": png(1)})
    clock = enter(place).clock
    here, there = enter(place, clock=clock).look(), enter(place, clock=clock).look()
    (one,) = take(here, ANNA)
    for _ in range(8):
        clock.now += 0.6 * LEASE_S
        here.desk.keep(ANNA, [one.entry.number])
        assert not take(there, BERT)


def test_a_skipped_photo_is_for_others(place: Place):
    place.put({"unlabelled/a.png": png(1)})
    room = enter(place).look()
    (one,) = take(room, ANNA)
    room.desk.skip(ANNA, one.entry.number)
    assert not take(room, ANNA)
    assert take(room, BERT)


def test_of_two_who_decide_differently_the_second_is_shown_the_firsts_decision(place: Place):
    place.put({"unlabelled/a.png": png(1)})
    clock = enter(place).clock
    here, there = enter(place, clock=clock).look(), enter(place, clock=clock).look()
    (annas,) = take(here, ANNA)
    clock.now += LEASE_S + 1
    (berts,) = take(there, BERT)
    assert decide(here, annas, "OK", ANNA).stands
    second = decide(there, berts, "KO", BERT)
    assert not second.stands
    assert (second.decision.who, second.decision.label) == ("Anna", "OK")
    assert list(place.files()) == ["OK/a.png"]
    # Knowing that, the second one may overrule the first.
    assert there.desk.decide(BERT, berts.entry.number, "KO", second.decision.revision).stands
    assert list(place.files()) == ["KO/a.png"]
    late = here.desk.undo(ANNA, annas.entry.number, 1)
    here.catalogue.refresh()
    late = here.desk.undo(ANNA, annas.entry.number, 1) if late.stands else late
    assert (late.stands, late.decision.who) == (False, "Bert")
    assert list(place.files()) == ["KO/a.png"]


def test_of_many_who_decide_at_the_same_moment_exactly_one_wins(place: Place):
    place.put({"unlabelled/a.png": png(1)})
    clock = enter(place).clock
    rooms = [enter(place, clock=clock).look() for _ in range(6)]
    shown = []
    for number, room in enumerate(rooms):
        clock.now += LEASE_S + 1
        shown.append(take(room, type(ANNA)(f"person {number}", f"session-{number:03}"))[0])
    outcomes = [None] * len(rooms)
    ready = threading.Barrier(len(rooms))

    def one(number: int) -> None:
        ready.wait(20)
        person = type(ANNA)(f"person {number}", f"session-{number:03}")
        try:
            outcomes[number] = decide(rooms[number], shown[number], ("OK", "KO")[number % 2], person)
        except OkkoError:  # the photo was on its way at that moment
            outcomes[number] = None

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(len(rooms))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    winners = [outcome for outcome in outcomes if outcome and outcome.stands]
    assert len(winners) == 1
    assert list(place.files()) == [winners[0].decision.to_key]
    assert {outcome.decision.who for outcome in outcomes if outcome} == {winners[0].decision.who}


def test_who_is_overruled_while_the_photo_is_on_its_way_does_not_bring_it_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    place.put({"unlabelled/a.png": png(1)})
    clock = enter(place).clock
    here, there = enter(place, clock=clock).look(), enter(place, clock=clock).look()
    (annas,) = take(here, ANNA)
    clock.now += LEASE_S + 1
    (berts,) = take(there, BERT)
    move = type(here.photos).move

    def slow(photos, key, to_key, data):
        if photos is here.photos and key == "unlabelled/a.png":  # Anna's decision is written, and Bert overrules it
            late = decide(there, berts, "KO", BERT)
            assert not late.stands
            assert there.desk.decide(BERT, berts.entry.number, "KO", late.decision.revision).stands
            place.put({"unlabelled/a.png": data})  # Anna's program has read it before it went away
        return move(photos, key, to_key, data)

    monkeypatch.setattr(type(here.photos), "move", slow)
    outcome = decide(here, annas, "OK", ANNA)
    assert (outcome.stands, outcome.decision.who) == (False, "Bert")
    assert list(place.files()) == ["KO/a.png"]


def test_a_decision_that_cannot_be_read_is_not_written_over(place: Place):
    place.put({"unlabelled/a.png": png(1)})
    digest = hashlib.sha256(png(1)).hexdigest()
    place.put({f".okko/decisions/{digest}-000001.json": b"of a later okko"})
    room = enter(place).look()
    (one,) = take(room)
    with pytest.raises(LabellingError, match="no decision that this okko can read"):
        decide(room, one, "KO")
    assert list(place.files()) == ["unlabelled/a.png"]


def test_progress_counts_what_everybody_has_done_and_what_is_left_by_reason(place: Place, model: Classifier):
    place.put({f"unlabelled/{red}.png": png(red) for red in (120, 128, 136, 230)})
    here, there = enter(place, model).look(), enter(place, model).look()
    decide(here, take(here, ANNA)[0], "OK", ANNA)
    decide(there, take(there, BERT)[0], "KO", BERT)
    here.catalogue.refresh()
    progress = here.catalogue.progress()
    assert progress.done == {"the model is uncertain": 2}
    assert progress.left == {"the model is uncertain": 1, "the model is sure": 1}
    assert (progress.labels, progress.unlabelled, progress.photos) == ({"OK": 1, "KO": 1}, 2, 4)


# --- what breaks in between ---


class PowerCutError(Exception):
    """The power went."""


@pytest.mark.parametrize("operations", range(1, 9))
def test_wherever_the_power_goes_no_photo_is_lost_and_trying_again_succeeds(
    place: Place, operations: int, monkeypatch: pytest.MonkeyPatch
):
    """Every write of a decision is counted, and the program ends before the n-th."""
    data = png(1)
    place.put({"unlabelled/a.png": data})
    room = enter(place).look()
    (one,) = take(room)
    left = [operations]

    def counted(operation):
        def call(*arguments, **keywords):
            left[0] -= 1
            if left[0] == 0:
                raise PowerCutError
            return operation(*arguments, **keywords)

        return call

    if isinstance(place, Bucket):
        for name in ("put_object", "delete_object"):
            monkeypatch.setattr(place.client, name, counted(getattr(place.client, name)))
    else:
        monkeypatch.setattr(photos_module.os, "link", counted(os.link))
        monkeypatch.setattr(type(place.root), "unlink", counted(type(place.root).unlink))
        monkeypatch.setattr(photos_module, "sync_folder", counted(photos_module.sync_folder))
        monkeypatch.setattr(type(room.book), "add", counted(type(room.book).add))
    broken = False
    try:
        decide(room, one, "KO")
    except PowerCutError:
        broken = True
    monkeypatch.undo()
    for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}.items():
        monkeypatch.setenv(name, value)
    assert data in place.files().values()
    room.clock.now += LEASE_S + 1
    again = enter(place, clock=room.clock).look()
    for shown in take(again, BERT):
        assert decide(again, shown, "KO", BERT).stands
    assert place.files() == {"KO/a.png": data}
    assert broken or operations > 3


def test_a_move_that_failed_is_made_good_when_the_person_tries_again(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    folder.put({"unlabelled/a.png": png(1)})
    room = enter(folder).look()
    (one,) = take(room)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(photos_module.os, "link", full)
    with pytest.raises(LabellingError, match="No space left"):
        decide(room, one, "KO")
    monkeypatch.undo()
    assert list(folder.files()) == ["unlabelled/a.png"]
    assert decide(room, one, "KO").stands
    assert list(folder.files()) == ["KO/a.png"]


@pytest.mark.parametrize("fault", ["lost", "refused"])
def test_a_network_that_fails_at_every_write_once_changes_nothing_of_the_outcome(client: Any, fault: str):
    """A lost answer is the worst: the write was done, and is tried again."""
    from botocore.exceptions import ConnectionClosedError

    bucket = Bucket(client, bucket_name())
    bucket.put({"unlabelled/a.png": png(1)})
    room = enter(bucket).look()
    network, failed = client._endpoint.http_session, set()
    send = network.send

    def failing(request):
        written = (request.method, request.url)
        if request.method in {"PUT", "DELETE"} and written not in failed:
            failed.add(written)
            if fault == "lost":
                send(request)
            raise ConnectionClosedError(endpoint_url=request.url)
        return send(request)

    network.send = failing
    (one,) = take(room)
    assert decide(room, one, "KO").stands
    network.send = send
    assert len(failed) == 5  # lease, decision and photo were written, the old photo and the lease deleted
    assert bucket.files() == {"KO/a.png": png(1)}
    assert len(bucket.own()) == 1


def test_a_disk_without_hard_links_moves_photos_too(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    folder.put({"unlabelled/a.png": png(1, 1), "unlabelled/b.png": png(2, 2), "KO/b.png": png(3, 3)})

    def none(*_, **__):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(photos_module.os, "link", none)
    room = enter(folder).look()
    for one in take(room, count=2):
        decide(room, one, "KO")
    digest = hashlib.sha256(png(2, 2)).hexdigest()
    assert folder.files() == {"KO/a.png": png(1, 1), "KO/b.png": png(3, 3), f"KO/b-{digest[:12]}.png": png(2, 2)}


# --- odd photos, odd names ---


def test_corrupt_empty_and_huge_files_are_shown_as_unreadable_with_the_reason(folder: Folder):
    folder.put({"unlabelled/text.jpg": b"hello", "unlabelled/cut.png": png(1)[:200], "unlabelled/empty.png": b""})
    with (folder.root / "unlabelled/huge.png").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\x01\0\0\0\x01\0\0\x08\2\0\0\0" + b"\0" * 50
    folder.put({"unlabelled/bomb.png": bomb})
    room = enter(folder).look()
    problems = {one.entry.key.rpartition("/")[2]: one.look.problem or "" for one in take(room, count=9)}
    assert "text file" in problems["text.jpg"]
    assert "damaged or cut off" in problems["cut.png"]
    assert "empty" in problems["empty.png"]
    assert "64 MB" in problems["huge.png"]
    assert problems["bomb.png"]


def test_a_name_that_is_no_text_is_unreadable_and_disturbs_nobody(folder: Folder):
    folder.put({os.fsdecode(b"x\xff.png"): png(1), "unlabelled/a.png": png(2)})
    room = enter(folder).look()
    problems = [one.look.problem for one in take(room, count=5)]
    assert sorted(problem or "" for problem in problems) == ["", "its name is not UTF-8. Rename it."]


def test_nothing_outside_the_folder_is_listed_read_or_written(folder: Folder, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(9))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/b.png").write_bytes(png(8))
    (folder.root / "unlabelled").mkdir()
    (folder.root / "unlabelled/link.png").symlink_to(secret)
    (folder.root / "KO").symlink_to(tmp_path / "elsewhere")
    photos = FolderPhotos(folder.root)
    assert photos.list_all() == []
    folder.put({"a.png": png(1)})
    for key in ("../secret.png", "/etc/passwd", "OK/../../secret.png"):
        with pytest.raises(LabellingError, match="no file of"):
            photos.load(key)
        with pytest.raises(LabellingError, match="no file of"):
            photos.move(key, "OK/a.png", b"")
        with pytest.raises(LabellingError, match="no file of"):
            photos.move("a.png", key, png(1))


def test_a_label_folder_that_leads_elsewhere_takes_no_photo(folder: Folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (folder.root / "KO").symlink_to(tmp_path / "elsewhere")
    folder.put({"unlabelled/a.png": png(1)})
    room = enter(folder).look()
    with pytest.raises(LabellingError, match="leads out"):
        decide(room, take(room)[0], "KO")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (folder.root / "unlabelled/a.png").read_bytes() == png(1)
