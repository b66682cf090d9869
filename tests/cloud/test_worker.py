import http.client
import itertools
import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from okko_cloud.debounce import Debounce
from okko_cloud.lease import BusyError
from okko_cloud.local.jobs import BUSY, Ended, JobProcess, serve
from okko_cloud.local.queue import LocalQueue
from okko_cloud.local.receiver import Receiver
from okko_cloud.local.worker import Worker
from okko_models.errors import OkkoError
from okko_models.registry.errors import ConflictError, OfflineError


class Fake:
    """A job that ends when the test says so."""

    def __init__(self):
        self.ended = None
        self.stopped = False

    def poll(self):
        return self.ended

    def stop(self):
        self.stopped = True


class Loop:
    def __init__(self, folder):
        self.queue = LocalQueue(folder / "queue.sqlite")
        self.jobs, self.listing, self.said = [], "", []
        self.begin()

    def begin(self):
        self.worker = Worker(
            self.queue,
            Debounce(quiet_s=10, at_most_s=60),
            self.start,
            lambda: self.listing,
            look_every_s=1000,
            retry_s=5,
            say=self.said.append,
        )

    def start(self):
        self.jobs.append(Fake())
        return self.jobs[-1]

    def photo(self, at, listing):
        self.listing = listing
        self.queue.heard(1, at)

    def until(self, start, end):
        for now in range(start, end):
            self.worker.step(float(now))

    def end(self, kind):
        self.jobs[-1].ended = Ended(kind, kind, "")


@pytest.fixture
def loop(tmp_path):
    loop = Loop(tmp_path)
    yield loop
    loop.queue.close()


def test_an_empty_bucket_is_no_work(loop):
    loop.until(0, 100)
    assert loop.jobs == []


def test_a_burst_is_one_job_and_nothing_waits_when_it_has_ended(loop):
    for at in range(5):
        loop.photo(at, f"l{at}")
    loop.until(5, 14)
    assert loop.jobs == []
    loop.until(14, 20)
    assert len(loop.jobs) == 1
    loop.end("kept")
    loop.until(20, 200)
    assert len(loop.jobs) == 1
    assert not loop.queue.waiting()[0].changes
    assert [job.kind for job in loop.queue.jobs(10)] == ["kept"]


def test_events_that_changed_nothing_to_learn_from_start_nothing(loop):
    loop.photo(0, "a")
    loop.until(0, 12)
    loop.end("kept")
    loop.until(12, 20)
    loop.photo(20, "a")
    loop.until(20, 40)
    assert len(loop.jobs) == 1
    assert not loop.queue.waiting()[0].changes


def test_what_comes_while_a_job_runs_is_the_next_job(loop):
    loop.photo(0, "a")
    loop.until(0, 12)
    loop.photo(12, "b")
    loop.until(12, 30)
    assert len(loop.jobs) == 1
    loop.end("kept")
    loop.until(30, 33)
    assert len(loop.jobs) == 2


def test_photos_whose_events_were_lost_are_found_by_looking(loop):
    loop.listing = "a"
    loop.until(0, 12)
    assert len(loop.jobs) == 1
    loop.listing = "b"
    loop.end("kept")
    loop.until(12, 30)
    assert len(loop.jobs) == 2


def pauses(loop, kind, seconds):
    """How many seconds lie between the beginnings of jobs that end at once in this way."""
    began = []
    for now in range(seconds):
        if len(loop.jobs) > len(began):
            began.append(now)
            loop.end(kind)
        loop.worker.step(float(now))
    return [after - before for before, after in itertools.pairwise(began)]


def test_a_killed_job_is_tried_again_later_and_later(loop):
    loop.photo(0, "a")
    assert pauses(loop, "killed", 200) == [6, 11, 21, 41, 81]


def test_a_busy_place_is_tried_again_at_the_same_pace(loop):
    loop.photo(0, "a")
    assert pauses(loop, "busy", 40) == [6] * 4


def test_a_job_that_cannot_succeed_waits_for_other_photos(loop):
    loop.photo(0, "a")
    loop.until(0, 12)
    loop.end("failed")
    loop.until(12, 3000)
    assert len(loop.jobs) == 1
    loop.photo(3000, "b")
    loop.until(3000, 3012)
    assert len(loop.jobs) == 2


def test_whoever_comes_after_a_killed_loop_knows_what_waits(loop, tmp_path):
    loop.photo(0, "a")
    loop.until(0, 12)
    loop.queue.close()
    loop.queue = LocalQueue(tmp_path / "queue.sqlite")
    loop.queue.give_up_running(13)
    loop.begin()
    loop.until(13, 15)
    assert len(loop.jobs) == 2
    assert [job.kind for job in loop.queue.jobs(10)] == ["running", "killed"]


def test_a_clock_that_was_set_back_keeps_nobody_waiting(loop):
    loop.photo(10_000, "a")
    loop.worker.step(50.0)
    assert len(loop.jobs) == 1


def test_shutting_down_ends_the_job(loop):
    loop.photo(0, "a")
    loop.until(0, 12)
    loop.worker.stop(12.0)
    assert loop.jobs[0].stopped
    assert loop.queue.jobs(1)[0].kind == "killed"


def process(program, tmp_path, max_s=20.0):
    return JobProcess([sys.executable, "-c", program], {"PATH": ""}, tmp_path / "log", max_s=max_s)


def ended(job):
    end = time.monotonic() + 20
    while (found := job.poll()) is None and time.monotonic() < end:
        time.sleep(0.02)
    return found


def test_how_a_process_ended_is_understood(tmp_path):
    fine = {"kind": "kept", "listing": "l", "done": {"ruling": {"reason": "why"}}}
    says = "import sys; print({!r}); sys.exit({})"
    for program, expected in (
        (says.format(json.dumps(fine), 0), ("kept", "why")),
        (says.format('{"error": "too few"}', 1), ("failed", "too few")),
        (says.format('{"error": "other"}', BUSY), ("busy", "other")),
        ("raise SystemExit(3)", ("killed", "its process ended with 3 and said nothing")),
        ("import os; os.kill(os.getpid(), 9)", ("killed", "its process ended with -9 and said nothing")),
    ):
        found = ended(process(program, tmp_path))
        assert (found.kind, found.words) == expected


def test_a_process_that_takes_too_long_is_ended_with_its_children(tmp_path):
    program = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "time.sleep(60)"
    )
    job = process(program, tmp_path, max_s=2)
    assert "longer than" in ended(job).words
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    assert not is_alive(pid)


def is_alive(pid):
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_job_ends_when_its_parent_does(tmp_path):
    program = (
        "import threading, time\nfrom okko_cloud.local.jobs import _end_with_parent\n"
        "threading.Thread(target=_end_with_parent, daemon=True).start()\ntime.sleep(60)"
    )
    job = process(program, tmp_path)
    job._process.stdin.close()
    job._process.stdin = None
    assert ended(job).kind == "killed"


def post(receiver, body, token="secret"):
    request = urllib.request.Request(receiver.url, body, {"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=5) as reply:
        return reply.status


def event(key, n=1):
    found = {"key": key, "eTag": "e", "sequencer": f"{n:04X}"}
    record = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": found}}
    return json.dumps({"Records": [record]}).encode()


def test_the_receiver_counts_news_about_photos_and_nothing_else():
    heard, said = [], []
    receiver = Receiver("b", "", "secret", heard.append, said.append)
    try:
        for body in (event("photos/OK/1.jpg"), event("photos/OK/1.jpg"), event("registry/x"), event("training/lock")):
            assert post(receiver, body) == 200
        assert heard == [1]
        post(receiver, b"rubbish")
        assert heard == [1, 1]
        assert "not understood" in said[0]
        for body, token in ((event("photos/OK/2.jpg"), "wrong"), (event("photos/OK/2.jpg"), "sécret")):
            with pytest.raises((urllib.error.HTTPError, UnicodeEncodeError)):
                post(receiver, body, token)
        assert heard == [1, 1]
        connection = http.client.HTTPConnection(urlsplit(receiver.url).netloc, timeout=5)
        connection.putrequest("POST", "/")
        connection.putheader("Authorization", "Bearer secret")
        connection.putheader("Content-Length", str((1 << 20) + 1))
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()
    finally:
        receiver.close()


def test_a_bucket_that_cannot_be_read_is_told_and_loses_nothing(loop):
    loop.photo(0, "a")

    def broken():
        raise OkkoError("no network")

    loop.worker._listing = broken
    for now in (11.0, 12.0):
        with pytest.raises(OkkoError):
            loop.worker.step(now)
    loop.worker._listing = lambda: "a"
    loop.worker.step(13.0)
    assert len(loop.jobs) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BusyError("another worker is at it"), BUSY),
        (OfflineError("S3 does not answer"), BUSY),
        (ConflictError("others change it all the time"), BUSY),
        (OkkoError("too few photos"), 1),
    ],
)
def test_a_job_says_by_its_exit_code_whether_trying_again_may_help(error, code, monkeypatch, capfd):
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def make():
        raise error

    with pytest.raises(SystemExit) as ended:
        serve(make, watch_parent=False)
    assert ended.value.code == code
    assert json.loads(capfd.readouterr().out) == {"error": str(error)}
