"""Another model takes over between two marbles: none is missed, and each is journaled with the model that judged it."""

from __future__ import annotations

import gc
import threading
import weakref
from itertools import pairwise

import msgspec
import pytest

from okko_edge.dashboard.messages import Request
from okko_edge.events import Event
from okko_edge.frame_file import digest_of
from okko_edge.journal.reading import JournalReader
from okko_edge.settings import DashboardSettings, Settings, SortingSettings
from okko_edge.updater.in_service import check_labels
from okko_edge.updater.protocols import Health, RejectedError
from okko_models.classifier import Classifier
from okko_models.decision import Costs, DecisionRule
from okko_models.errors import BundleError, OkkoError
from tests.edge.updater.agents import Sorting
from tests.edge.updater.models import golden_of, graph, variant

THREE = ("KO", "OK", "empty")
GENTLE = 10.0


@pytest.fixture
def gentle(bundle, tmp_path):
    """Another model: less sure of itself, and with a label more, so that each of its answers shows whose it is."""
    white = 1 / (1 + 2.718281828459045 ** (-GENTLE / 2))
    return variant(
        bundle,
        tmp_path / "gentle.okko",
        model=graph(slope=GENTLE, labels=3),
        name="gentle",
        version="2",
        labels=THREE,
        golden=golden_of(bundle, 1 - white, white, 0.0),
        decision=DecisionRule(("OK",), 0.7, 0.3, Costs()),
    )


@pytest.fixture
def sorting(bundle, photos, tmp_path):
    sorting = Sorting(bundle, photos, tmp_path)
    yield sorting
    sorting.close()


def test_every_marble_is_journaled_once_with_the_model_that_judged_it(bundle, gentle, sorting, tmp_path):
    sorting.start()
    for folder in (gentle.path, None, gentle.path, bundle.path, gentle.path):
        sorting.model.change_model(folder)
        sorting.wait(20)
    sorting.close()
    runs, rows = sorting.rows()
    digests = [bundle.digest, gentle.digest] * 3
    assert [run.bundle_digest for run in runs] == digests
    assert [run.bundle_version for run in runs] == ["1", "2"] * 3
    assert [row.number for row in rows] == list(range(1, len(sorting.decisions) + 1)), "none is missing, none is twice"
    for row, decision in zip(rows, sorting.decisions, strict=True):
        judge = gentle if row.bundle_digest == gentle.digest else bundle
        assert tuple(row.probability) == judge.manifest.labels, "its labels are those of the model"
        assert (max(row.probability.values()) < 0.999) == (judge is gentle), "and its numbers"
        assert row.verdict == row.truth == decision.verdict.value
        assert decision.judge.digest == row.bundle_digest
    order = [row.run for row in rows]
    assert [a for a, b in pairwise([*order, ""]) if a != b] == [run.run for run in runs], "one after the other"
    with JournalReader(sorting.path) as reader:
        events = reader.events()
    assert [event.run for event in events if event.event == "model_changed"] == [run.run for run in runs[1:]]
    assert "gentle 2 sorts from here on, in place of brightness 1" in {event.detail for event in events}
    kept = list(sorting.beside._outbox.store.items())
    assert {item.sidecar.bundle_digest for item in kept} == {bundle.digest, gentle.digest}
    for item in kept:
        assert item.sidecar.bundle_digest == rows[item.sidecar.number - 1].bundle_digest
        assert item.sidecar.probability == pytest.approx(rows[item.sidecar.number - 1].probability)
    assert sorting.counters[Event.LISTENER_FAILED] == 0
    assert not any(row.error for row in rows)


def test_a_correction_of_a_marble_from_before_names_the_model_that_judged_it(bundle, gentle, sorting):
    sorting.start()
    before = sorting.decisions[0]
    sorting.model.change_model(gentle.path)
    outbox = sorting.beside._outbox
    outbox.keep(before, "empty")  # a label that only the new model knows
    sidecar = outbox.store.get(digest_of(before.frame.image)).sidecar
    assert (sidecar.bundle_digest, tuple(sidecar.probability)) == (bundle.digest, bundle.manifest.labels)


def test_page_metrics_and_broker_are_told_of_the_new_model(bundle, gentle, photos, tmp_path):
    sorting = Sorting(bundle, photos, tmp_path, dashboard=DashboardSettings(listen="127.0.0.1:0"))
    told = []

    class Broker:
        def change_model(self, about):
            told.append(about)

    sorting.beside._mqtt = Broker()
    try:
        sorting.start()
        app = sorting.beside.dashboard._app
        before = app.about
        sorting.model.change_model(gentle.path)
        sorting.wait(1)
        assert (before.digest, before.name) == (bundle.digest, "brightness")
        assert (app.about.digest, app.about.labels, app.about.ok_threshold) == (gentle.digest, THREE, 0.7)
        assert (app.about.device, app.about.camera) == (before.device, before.camera)
        assert f'digest="{gentle.digest}"' in app._metrics(None).body.decode()
        labels = {marble["number"]: tuple(marble["probability"]) for marble in state_of(app)["marbles"]}
        assert set(labels.values()) <= {THREE, bundle.manifest.labels}, "each marble with the labels of its own model"
        assert [about.digest for about in told] == [gentle.digest]
        assert sorting.model.bundle.digest == sorting.model.digest == gentle.digest
    finally:
        sorting.close()


def state_of(app):
    return msgspec.json.decode(app._state(Request("GET", "/state", {})).body)


@pytest.mark.parametrize("bad", ["wrong golden", "damaged", "gone", "no model"])
def test_a_bundle_that_does_not_work_changes_nothing(bundle, sorting, tmp_path, bad):
    new = variant(bundle, tmp_path / "new.okko", version="2")
    if bad == "wrong golden":
        new = variant(bundle, tmp_path / "new.okko", golden=golden_of(bundle, 0.5, 0.5))
    elif bad == "damaged":
        (new.path / "model.onnx").write_bytes(b"x" * new.manifest.files["model.onnx"].size)
    elif bad == "gone":
        (new.path / "manifest.json").unlink()
    else:
        new = variant(bundle, tmp_path / "new.okko", model=b"\x08\x0a")
    sorting.start()
    with pytest.raises(BundleError):
        sorting.model.change_model(new.path)
    sorting.wait(5)
    sorting.close()
    runs, rows = sorting.rows()
    assert [run.bundle_digest for run in runs] == [bundle.digest]
    assert not any(row.error for row in rows)
    assert sorting.model.digest == bundle.digest


def test_without_frames_nothing_changes_and_nobody_waits_for_ever(sorting, gentle, bundle, monkeypatch):
    monkeypatch.setattr("okko_edge.updater.in_service._PATIENCE_S", 0.2)
    with pytest.raises(OkkoError, match="no frame"):
        sorting.model.change_model(gentle.path)
    sorting.start()
    sorting.wait(5)
    assert {decision.judge.digest for decision in sorting.decisions} == {bundle.digest}, "nor later"
    assert sorting.model.digest == bundle.digest


def test_closing_ends_the_waiting(sorting, gentle):
    threading.Timer(0.3, sorting.model.close).start()
    with pytest.raises(OkkoError, match="the run ended"):
        sorting.model.change_model(gentle.path)


def test_the_memory_of_the_model_before_is_free_afterwards(sorting, gentle):
    sorting.start()
    gc.collect()
    gc.disable()
    try:
        before = weakref.ref(sorting.sorter._classifier)
        sorting.model.change_model(gentle.path)
        assert before() is None, "without waiting for the garbage collector"
    finally:
        gc.enable()


def test_health_counts_what_the_model_did_since_it_is_in_service(sorting, gentle, monkeypatch):
    classify = Classifier.classify
    sorting.start()
    assert sorting.model.health().marbles >= 4
    sorting.model.change_model(gentle.path)

    def fail(*_):
        raise RuntimeError("broken")

    assert sorting.model.health().inference_failures == 0
    monkeypatch.setattr(Classifier, "classify", fail)
    sorting.wait(3)
    monkeypatch.setattr(Classifier, "classify", classify)
    sorting.wait(3)
    sorting.close()
    mine = [decision for decision in sorting.decisions if decision.judge.digest == gentle.digest]
    failed = sum(decision.classification is None for decision in mine)
    assert failed >= 2
    assert sorting.model.health() == Health(len(mine), failed, 0)
    assert sorting.counters[Event.INFERENCE_FAILED] == failed


def test_a_model_that_is_too_slow_is_counted_as_late(bundle, photos, tmp_path):
    sorting = Sorting(bundle, photos, tmp_path)
    classify = sorting.sorter._classifier.classify

    class Slow:
        def classify(self, image):
            sorting.rig.clock.sleep_until(sorting.rig.clock.now_s() + 0.6)
            return classify(image)

    sorting.sorter._classifier = Slow()
    sorting.sorter._stopwatch = sorting.rig.clock.now_s
    try:
        sorting.start()
    finally:
        sorting.close()
    health = sorting.model.health()
    assert health.deadline_misses >= 5
    assert health.inference_failures == 0


def test_a_frame_that_comes_late_is_not_held_against_the_model(bundle, photos, tmp_path):
    sorting = Sorting(bundle, photos, tmp_path)
    clock, sort = sorting.rig.clock, sorting.rig.gate.sort

    def busy(position, arrived_s):
        clock.sleep_until(clock.now_s() + 0.6)
        sort(position, arrived_s)
        return False

    sorting.rig.gate.sort = busy
    sorting.sorter._stopwatch = clock.now_s
    try:
        sorting.start()
    finally:
        sorting.close()
    assert all("reached the gate" in decision.error for decision in sorting.decisions)
    assert sorting.model.health().deadline_misses == 0


def test_listeners_come_and_go_and_one_that_fails_is_counted(sorting):
    heard, later = [], []

    def fail(decision):
        raise RuntimeError

    sorting.model.add_listener(fail)
    sorting.model.add_listener(heard.append)
    sorting.start()
    sorting.model.remove_listener(fail)
    sorting.model.remove_listener(later.append)
    failed = sorting.counters[Event.LISTENER_FAILED]
    sorting.wait(5)
    sorting.model.remove_listener(heard.append)
    count = len(heard)
    sorting.wait(5)
    sorting.close()
    assert failed >= 4
    assert failed <= sorting.counters[Event.LISTENER_FAILED] <= failed + 1
    assert count <= len(heard) <= count + 1
    assert [decision.number for decision in heard] == list(range(1, len(heard) + 1))


@pytest.mark.parametrize(
    ("labels", "good", "settings", "reason"),
    [
        (("OK", "KO"), ("OK",), {}, None),
        (("KO", "OK", "empty"), ("OK",), {}, None),
        (("KO", "OK", "hand"), ("OK",), {"two_labels": ("hand",)}, None),
        (("KO", "OK", "hand"), ("OK",), {}, "it knows hand"),
        (("KO", "fine"), ("fine",), {}, "good labels are fine, those of the model in service OK"),
        (("OK", "other"), ("OK",), {}, "it does not know KO"),
        (("KO", "OK", "good"), ("OK", "good"), {}, "good labels are OK, good, those"),
    ],
)
def test_labels_that_mean_something_else_are_refused(bundle, tmp_path, labels, good, settings, reason):
    new = variant(
        bundle,
        tmp_path / "new.okko",
        model=graph(labels=len(labels)),
        labels=labels,
        golden=(),
        decision=DecisionRule(good, 0.8, 0.2, Costs()),
    )
    given = Settings(sorting=SortingSettings(**settings))
    if reason is None:
        check_labels(new.manifest, bundle.manifest, given)
    else:
        with pytest.raises(RejectedError, match=reason):
            check_labels(new.manifest, bundle.manifest, given)


def test_a_trial_compares_labels_with_the_model_that_sorts_now(sorting, bundle, gentle):
    sorting.start()
    sorting.model.change_model(gentle.path)
    with pytest.raises(RejectedError, match="it does not know empty"):
        sorting.model.make_trial(bundle.path).self_test()
    sorting.model.change_model(None)
    assert sorting.model.digest == bundle.digest, "but there is always a way back"
