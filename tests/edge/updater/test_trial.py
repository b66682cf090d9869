"""A model on trial may do anything; what it does stays in the child process, and comes out as a reason."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from okko_edge.frame import Frame
from okko_edge.sorter import Decision
from okko_edge.updater.protocols import RejectedError, TrialError
from okko_edge.updater.trial import WORKER, ChildTrial
from okko_models.classifier import Classifier
from okko_models.decision import Costs, DecisionRule
from tests.edge.fakes import photo
from tests.edge.updater.models import ENDLESS, golden_of, graph, variant

SHAPE = (36, 48)
# The child, with one of its parts replaced. It does not step back, because tests have a machine that is never idle; and
# takes models that are refused unseen: it is the second line of defence, and shall hold without the first.
_CHILD = """
import os, signal, sys, time, types
from okko_models.trust import model_check
model_check.check_bundle = lambda *_, **__: types.SimpleNamespace(parameter_bytes=1 << 20, activation_bytes=1 << 20)
os.nice = os.sched_setscheduler = lambda *_: None
{}
from okko_edge.updater import trial_worker
trial_worker.main(sys.argv[1:])
"""


@pytest.fixture
def try_out(bundle, tmp_path):
    """Makes a trial beside the brightness bundle, and ends it."""
    with contextlib.ExitStack() as ending:

        def make(new=bundle, *, child="", **settings):
            settings = {"worker": (sys.executable, "-c", _CHILD.format(child))} | settings
            trial = ChildTrial(new.path, old=bundle.path, shape=SHAPE, **settings)
            ending.callback(trial.close)
            return trial

        yield make


def processes():
    """What this process has started and what still runs: servers of other tests, too."""
    return {int(pid) for pid in Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()}


@pytest.fixture
def children():
    """Returns a function that finds what the test has started and what still runs."""
    before = processes()
    return lambda: processes() - before


def marbles(bundle, count):
    """Decisions of the model in service about bright and dark marbles."""
    classifier = Classifier(bundle)
    for number in range(count):
        image = photo(200 if number % 2 else 60, seed=number)
        said = classifier.classify(image)
        yield Decision(number, said.verdict, Frame(image, 0.0, number), said, None, 0.0, 1.0, 1.0)


def show(trial, bundle, count, *, seconds=30.0):
    """Lets a trial hear of marbles, each when it is done with the one before; returns its last report."""
    end_s = time.monotonic() + seconds
    for heard, decision in enumerate(marbles(bundle, count), 1):
        trial.hear(decision)
        while (report := trial.report()).marbles + report.lost < heard:
            assert time.monotonic() < end_s, "the trial does not go on"
            time.sleep(0.002)
    return report


def test_a_good_model_passes_and_judges_marbles_as_the_one_in_service_does(bundle, try_out):
    trial = try_out()
    tested = trial.self_test()
    assert tested.golden_difference <= 1e-6
    assert tested.latency_ms > 0
    assert 20 < tested.memory_mb < 500
    trial.shadow(6)
    report = show(trial, bundle, 6)
    assert (report.marbles, report.agreement, report.lost, report.finished) == (6, 1.0, 0, True)
    assert (report.uncertain_share_old, report.uncertain_share_new) == (0.0, 0.0)
    assert report.latency_ms_old > 0
    assert report.latency_ms_new > 0
    trial.hear(next(marbles(bundle, 1)))
    assert trial.report().marbles == 6, "what was asked for, and no more"


def test_agreement_and_uncertain_are_shares_of_the_marbles_that_both_judged(bundle, try_out, tmp_path):
    timid = variant(bundle, tmp_path / "timid.okko", decision=DecisionRule(("OK",), 1.0, 0.2, Costs()))
    trial = try_out(timid)
    trial.self_test()
    assert trial.report().marbles == 0
    trial.shadow(4)
    for decision in marbles(bundle, 2):
        trial.hear(Decision(9, decision.verdict, None, None, "no frame", 0.0, 0.0, 0.1))
    report = show(trial, bundle, 4)
    assert (report.agreement, report.uncertain_share_old, report.uncertain_share_new) == (0.5, 0.0, 0.5)


def test_marbles_that_come_while_it_is_busy_are_lost_and_counted_and_nobody_waits(bundle, try_out):
    trial = try_out(
        child="from okko_edge.updater import trial_worker as worker\njudge = worker._judge\n"
        "worker._judge = lambda *given: (time.sleep(0.05), judge(*given))[1]"
    )
    trial.self_test()
    trial.shadow(1000)
    heard = list(marbles(bundle, 2)) * 50
    began_s = time.thread_time()
    for decision in heard:
        trial.hear(decision)
    assert time.thread_time() - began_s < 0.05, "0.5 ms each"
    report = trial.report()
    assert report.lost >= 90
    assert not report.finished


@pytest.mark.parametrize(
    ("changes", "settings", "reason"),
    [
        ({"wrong": True}, {}, "golden frames differ"),
        ({"model": graph(rounds=ENDLESS)}, {"cpu_s": 1}, "computed for more than 1 s while the golden frames"),
        ({"model": graph(greedy=1 << 30)}, {"memory_mb": 100.0}, "alloc"),
    ],
)
def test_a_model_that_is_wrong_endless_or_greedy_is_rejected_with_a_reason(
    bundle, try_out, children, tmp_path, changes, settings, reason
):
    if changes.pop("wrong", False):
        changes = {"golden": golden_of(bundle, 0.75, 0.25)}
    trial = try_out(variant(bundle, tmp_path / "bad.okko", **changes), **settings)
    with pytest.raises(RejectedError, match=reason):
        trial.self_test()
    trial.close()
    assert not children()


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "died of SIGSEGV while the golden frames were being repeated"),
        ("os.kill(os.getpid(), signal.SIGILL)", "died of SIGILL"),
        ("os._exit(3)", "ended with 3 while"),
        ("sys.stderr.write('terminate: bad_alloc\\n' * 100000), os.abort()", "SIGABRT while .*: terminate: bad"),
    ],
)
def test_a_model_that_brings_its_process_down_is_rejected_and_this_process_lives(try_out, what, reason):
    trial = try_out(child=f"from okko_models.classifier import Classifier as C\nC.self_test = lambda *_: ({what})")
    with pytest.raises(RejectedError, match=reason):
        trial.self_test()


def test_a_model_that_fails_on_a_marble_is_rejected(bundle, try_out, tmp_path):
    blind = variant(bundle, tmp_path / "blind.okko", model=graph(blind=True))
    trial = try_out(blind)
    trial.self_test()
    trial.shadow(10)
    with pytest.raises(RejectedError, match="not a number"):
        show(trial, bundle, 2)
    for decision in marbles(bundle, 1):
        trial.hear(decision)


def test_what_is_not_the_models_fault_is_no_rejection(try_out, tmp_path, bundle):
    with pytest.raises(TrialError, match=r"no answer within 0\.5 s"):
        try_out(child="time.sleep(60)", self_test_s=0.5).self_test()
    with pytest.raises(TrialError, match="SIGKILL"):
        try_out(child="os.kill(os.getpid(), signal.SIGKILL)").self_test()
    with pytest.raises(TrialError, match="cannot be started"):
        try_out(worker=("/nowhere/python",)).self_test()
    (tmp_path / "gone").mkdir()
    with pytest.raises(TrialError, match="cannot be read"):
        ChildTrial(tmp_path / "gone", old=bundle.path, shape=SHAPE).self_test()


@pytest.mark.parametrize(
    "said", ["b'hello\\\\n'", "b'x' * 100_000", 'b\'{"tested": {"latency_ms": 1}}\\\\n\'', "b'{}\\\\n'"]
)
def test_nothing_that_the_child_says_is_trusted(try_out, said):
    script = (
        "import json, os, sys, time\n"
        f"os.write(json.loads(sys.argv[1])['descriptor'], {said.replace(chr(92) * 2, chr(92))})\n"
        "time.sleep(20)"
    )
    with pytest.raises(RejectedError, match="makes sense"):
        try_out(worker=(sys.executable, "-c", script)).self_test()


def test_the_child_is_last_in_every_queue_and_gets_no_credentials(bundle, try_out, children, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    trial = try_out(worker=WORKER)
    trial.self_test()
    (child,) = children()
    assert os.sched_getscheduler(child) == os.SCHED_IDLE
    assert os.getpriority(os.PRIO_PROCESS, child) == 19
    assert Path(f"/proc/{child}/oom_score_adj").read_text() == "1000\n"
    assert b"hush" not in Path(f"/proc/{child}/environ").read_bytes()
    trial.close()
    trial.close()
    assert not children()


def test_ending_a_trial_in_the_middle_of_its_self_test_ends_it_at_once(try_out):
    trial = try_out(child="time.sleep(60)")
    raised = []

    def test():
        with pytest.raises(TrialError) as error:
            trial.self_test()
        raised.append(error)

    thread = threading.Thread(target=test)
    thread.start()
    time.sleep(0.2)
    trial.close()
    thread.join(10)
    assert raised
    assert not thread.is_alive()


def test_the_child_ends_with_an_agent_that_is_killed(bundle):
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom okko_edge.updater.trial import WORKER, ChildTrial\n"
        "trial = ChildTrial(Path(sys.argv[1]), old=Path(sys.argv[1]), shape=(36, 48))\n"
        "trial.self_test()\nprint(trial._child._process.pid, flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(bundle.path)], stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        child = Path("/proc") / agent.stdout.readline().decode().strip()
        assert child.exists()
        agent.kill()
    for _ in range(500):
        if not child.exists() or "zombie" in (child / "status").read_text():
            return
        time.sleep(0.01)
    raise AssertionError("the child lives on")


def test_a_model_whose_labels_do_not_fit_is_refused_before_anything_runs(bundle, try_out):
    def check(manifest):
        raise RejectedError(f"not with {manifest.labels}")

    with pytest.raises(RejectedError, match="not with"):
        try_out(check=check, worker=("/nowhere",)).self_test()


def test_frames_of_any_size_and_order_of_bytes_are_shown_as_they_are(bundle, try_out):
    trial = try_out()
    trial.self_test()
    trial.shadow(2)
    classifier = Classifier(bundle)
    for size in ((1, 1), (640, 480)):
        image = np.ascontiguousarray(photo(200, seed=1, size=size))
        said = classifier.classify(image)
        trial.hear(Decision(1, said.verdict, Frame(image, 0.0, 1), said, None, 0.0, 1.0, 1.0))
    for _ in range(2000):
        if trial.report().finished:
            break
        time.sleep(0.005)
    assert trial.report().agreement == 1.0
