"""The process that fetches: a real one, started and ended as the agent does."""

from __future__ import annotations

import functools
import http.server
import os
import signal
import subprocess
import sys
import threading
import time

import msgspec
import pytest

from okko_edge.updater.child import FetchProcess
from okko_edge.updater.fetching import Request, Result
from tests.edge.updater.updater_fakes import OKKO


def request(world, **changes):
    given = {"folder": str(world.folder), "registry": str(world.registry), "device": "belt-1", "okko": OKKO}
    return Request(**(given | changes))


class Slow:
    """A web server that answers nothing until it is told to, so that whoever asks can be looked at."""

    def __enter__(self):
        self.asked, self.go_on = threading.Event(), threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.set()
                outer.go_on.wait(30)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        return self

    def __exit__(self, *_):
        self.go_on.set()
        self.server.shutdown()
        self.server.server_close()


def test_it_brings_a_model_verified_and_says_what_it_took(world):
    bundle = world.release("1")
    process = FetchProcess(request(world))
    try:
        done = process.wait(60)
    finally:
        process.close()
    assert (done.result, done.digest, done.version) == (Result.FETCHED, bundle.digest, "1"), done.message
    assert 10 < done.memory_mb < 150
    assert world.shelf.candidate().digest == bundle.digest
    assert world.shelf.open(bundle.digest)


def test_it_is_at_the_lowest_priority_and_ends_with_whoever_started_it(world):
    with Slow() as slow:
        said = msgspec.json.encode(request(world, registry=slow.url)).decode()
        program = (
            "import subprocess, sys, time\n"
            "child = subprocess.Popen([sys.executable, '-m', 'okko_edge.updater.fetching'], stdin=subprocess.PIPE)\n"
            "child.stdin.write(sys.argv[1].encode() + b'\\n'); child.stdin.flush()\n"
            "print(child.pid, flush=True); time.sleep(60)\n"
        )
        parent = subprocess.Popen([sys.executable, "-c", program, said], stdout=subprocess.PIPE)
        try:
            pid = int(parent.stdout.readline())
            assert slow.asked.wait(30)
            assert os.getpriority(os.PRIO_PROCESS, pid) == 19
            if hasattr(os, "SCHED_IDLE"):
                assert os.sched_getscheduler(pid) == os.SCHED_IDLE
            parent.send_signal(signal.SIGKILL)
            parent.wait(10)
            end = time.monotonic() + 10
            while _runs(pid) and time.monotonic() < end:
                time.sleep(0.02)
            assert not _runs(pid)
        finally:
            parent.kill()
            parent.wait(10)
            parent.stdout.close()


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().split(") ")[1][0] != "Z"
    except OSError:
        return False


def test_one_that_takes_too_long_is_ended(world):
    with Slow() as slow:
        process = FetchProcess(request(world, registry=slow.url), longest_s=0.0)
        try:
            done = process.poll()
        finally:
            process.close()
    assert done.result is Result.FAILED
    assert "longer than" in done.message


def test_it_may_be_ended_at_any_time_and_twice(world):
    with Slow() as slow:
        process = FetchProcess(request(world, registry=slow.url))
        assert process.poll() is None
        process.close()
        process.close()


def test_its_memory_is_capped_and_then_nothing_has_changed(world):
    world.release("1")
    process = FetchProcess(request(world, memory_mb=6.0))
    try:
        done = process.wait(60)
    finally:
        process.close()
    assert done.result is Result.FAILED
    assert world.shelf.candidate() is None


@pytest.mark.parametrize("given", [b"", b"{}\n", b"no json\n"])
def test_a_request_that_makes_no_sense_ends_it(given):
    done = subprocess.run(
        [sys.executable, "-m", "okko_edge.updater.fetching"], input=given, capture_output=True, timeout=60, check=False
    )
    assert done.stdout == b""


def test_it_reads_a_registry_on_a_web_server(world):
    bundle = world.release("1")
    handler = functools.partial(Quiet, directory=str(world.registry))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            process = FetchProcess(request(world, registry=f"http://127.0.0.1:{server.server_address[1]}"))
            try:
                done = process.wait(60)
            finally:
                process.close()
        finally:
            server.shutdown()
    assert (done.result, done.digest) == (Result.FETCHED, bundle.digest), done.message


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass
