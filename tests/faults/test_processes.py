"""`okko run` in a process of its own: disks that are full or read-only, S3, the dashboard, and the end of the process.

The world goes on in real time, and writes down what it sees; see `tests.faults.device`.
"""

from __future__ import annotations

import random
import socket
import time
import urllib.request

import pytest

from tests.edge.s3_fakes import Proxy
from tests.faults.devices import DeviceProcess, journal_rows
from tests.faults.table import ROWS, FaultRow


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def configuration(bundle, folder, *, outbox="", dashboard="") -> str:
    # The travel is shorter than the deadline, as it is in a machine whose camera sits before the gate.
    return f"""
bundle = "{bundle.path}"
[camera]
source = "v4l2:/dev/belt"
stall_s = 0.5
[trigger]
kind = "gpio:17"
[gate]
kind = "sim"
travel_s = 0.2
[journal]
path = "{folder}/journal.sqlite"
[outbox]
enabled = {"true" if outbox else "false"}
folder = "{folder}/outbox"
random_share = 1.0
retry_s = 0.2
{outbox}
[dashboard]
listen = "{dashboard}"
"""


class Watched:
    """A device and what is known of its journal, to be judged when it has ended."""

    def __init__(self, tmp_path, state, config, photos) -> None:
        self.journal = state / "journal.sqlite"
        self._folder, self._config, self._photos = tmp_path / "device", config, photos
        self.device = self.start()

    def start(self) -> DeviceProcess:
        self.device = DeviceProcess(self._folder, self._config, photos=self._photos)
        self.device.wait_for_verdicts(5)
        return self.device

    def sort(self, more: int = 15) -> None:
        self.device.wait_for_verdicts(len(self.device.life.verdicts) + more)

    def rows(self):
        return journal_rows(self.journal)

    def end(self, fault, note=""):
        """Ends it with SIGTERM, judges, adds to the table if the fault has a name; returns its report."""
        report = self.device.terminate()
        self.closed = not self.journal.with_name("journal.sqlite-wal").exists()  # before anybody reads it
        life = self.device.life
        rows = [row for row in self.rows().values() if row.at_s > life.start_s]
        assert life.exactly_one_each
        assert len(life.verdicts) == report["marbles"], "the report agrees with the world"
        assert report["journal"]["written"] == len(rows)
        assert report["journal"]["written"] + report["journal"]["lost"] == report["marbles"], "each kept or counted"
        judge(life, rows)
        if fault is None:
            return report
        ROWS.append(
            FaultRow(
                fault=fault,
                # Without those that came while it was ending.
                marbles=sum(at_s <= life.verdicts[-1][1] for _, at_s, _ in life.came),
                verdicts=len(life.verdicts),
                safe=report["errors"],
                uncertain=report["verdicts"]["UNCERTAIN"],
                counted=report["events"],
                note=note,
            )
        )
        return report


def judge(life, rows):
    """Holds the gate and the journal against the world."""
    said = [position for _, _, position in life.verdicts]
    assert [position for _, position in life.moves][: len(said)] == said[: len(life.moves)], "one move each"
    for row in rows:
        assert row.verdict == said[row.number - 1], "the journal says what the gate did"
        assert row.error is None or row.verdict == "KO"
        if row.error is None and row.outcome == "marble":
            assert int(row.photo) == life.came[row.number - 1][0], "judged by its own frame"


def test_a_disk_that_is_full_stops_nothing_and_is_used_again_when_it_has_room(bundle, photos, tmp_path, disk):
    box = Watched(tmp_path, disk.folder, configuration(bundle, disk.folder, outbox="max_mb = 1"), photos)
    box.sort(5)
    if disk.real:
        disk.fill()
    else:
        box.device.fault("full", 1.0)
    began = time.monotonic()
    box.sort(20)
    if disk.real:
        disk.empty()
    else:
        time.sleep(max(0.0, began + 1.0 - time.monotonic()))
    freed = len(box.device.life.verdicts)
    box.device.wait_for(
        "rows after there is room", lambda _: any(row.number > freed + 2 for row in box.rows().values())
    )
    report = box.end("disk full for 1 s" if disk.real else "disk full for 1 s (faked)", "written again afterwards")
    assert report["journal"]["lost"] > 0
    assert report["events"]["journal_lost"] >= report["journal"]["lost"]
    assert report["errors"] == report["events"]["deadlines_missed"], "no marble noticed"


def test_a_disk_that_is_read_only_stops_nothing_and_is_used_when_it_is_writable(bundle, photos, tmp_path, disk):
    if disk.real:
        disk.set_writable(False)
    box = Watched(tmp_path, disk.folder, configuration(bundle, disk.folder), photos)
    if not disk.real:
        box.device.fault("readonly", 0.5)
    box.sort(10)
    if disk.real:
        disk.set_writable(True)
    made = len(box.device.life.verdicts)
    box.device.wait_for("rows", lambda _: any(row.number > made for row in box.rows().values()))
    report = box.end("disk read-only at the start", "written as soon as it could be")
    assert report["journal"]["lost"] > 0


def test_a_dashboard_that_crashes_comes_back_and_no_marble_notices(bundle, photos, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    box = Watched(tmp_path, tmp_path, configuration(bundle, tmp_path, dashboard=address), photos)

    def answers(_=None):
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=2) as answer:
                return bool(answer.read())
        except OSError:
            return False

    box.device.wait_for("the dashboard", answers)
    box.device.fault("dashboard", 0.2)
    box.sort(15)
    box.device.wait_for("the dashboard again", answers)
    report = box.end("dashboard crashes", "answers again")
    assert report["events"]["dashboard_failures"] == 1
    assert report["journal"]["lost"] == 0


@pytest.fixture(scope="module")
def moto():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


class Mode:
    """How a proxy behaves until told otherwise."""

    def __init__(self, mode):
        self.mode = mode

    def popleft(self):
        return self.mode


@pytest.mark.parametrize(("mode", "name"), [("cut", "S3 down"), ("slow", "S3 takes 2 s for each object")])
def test_an_s3_that_is_away_or_slow_is_waited_for_and_no_marble_notices(bundle, photos, tmp_path, moto, mode, name):
    import boto3

    client = boto3.client("s3", endpoint_url=moto, region_name="us-east-1", **_KEYS)
    client.create_bucket(Bucket=mode)
    client.put_bucket_versioning(Bucket=mode, VersioningConfiguration={"Status": "Enabled"})
    proxy = Proxy(moto)
    proxy.faults = Mode(mode)
    outbox = f'bucket = "s3://{mode}"\nendpoint_url = "{proxy.url}"'
    box = Watched(tmp_path, tmp_path, configuration(bundle, tmp_path, outbox=outbox), photos)
    box.sort(15)
    box.device.wait_for("an upload to be tried", lambda _: len(proxy.puts) >= 2)
    proxy.faults = Mode("ok")
    count = len(box.device.life.verdicts)
    box.device.wait_for("uploads", lambda _: len(set(proxy.puts)) > 10 and len(box.device.life.verdicts) > count)
    report = box.end(name, "uploaded afterwards, each object once")
    versions = [one["Key"] for one in client.list_object_versions(Bucket=mode)["Versions"]]
    proxy.close()
    assert len(versions) == len(set(versions)) >= 10
    assert report["events"]["uploaded"] >= 5
    assert report["events"]["upload_failures"] >= (mode == "cut")
    assert report["journal"]["lost"] == 0


_KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}


def test_sigterm_sorts_what_is_in_hand_and_closes_the_journal(bundle, photos, tmp_path):
    box = Watched(tmp_path, tmp_path, configuration(bundle, tmp_path), photos)
    box.sort(10)
    asked_s = time.monotonic()
    report = box.end("SIGTERM")
    life = box.device.life
    assert report["journal"]["lost"] == 0
    assert box.closed, "SQLite removes its log when the journal is closed in an orderly way"
    late = [at_s for _, at_s, _ in life.came[len(life.verdicts) :]]
    assert all(at_s > asked_s - 0.1 for at_s in late), "only marbles that came while it ended have no verdict"
    assert len(life.moves) == len(life.verdicts) + 1, "every marble on its way to the gate was sorted; then it parked"


def test_sigkill_at_any_moment_costs_no_committed_row_and_the_next_start_sorts_on(bundle, photos, tmp_path):
    random_ = random.Random(4)
    box = Watched(tmp_path, tmp_path, configuration(bundle, tmp_path, outbox="max_mb = 1"), photos)
    restarts_s, marbles, verdicts, safe, tail = [], 0, 0, 0, 0
    for _ in range(3):
        time.sleep(random_.uniform(0.2, 0.8))
        committed = box.rows()
        killed_s = box.device.kill()
        life = box.device.life
        after = box.rows()
        assert committed.items() <= after.items(), "what was committed is there, as it was"
        rows = [row for row in after.values() if row.at_s > life.start_s]
        assert life.exactly_one_each
        judge(life, rows)
        assert [row.number for row in rows] == list(range(1, len(rows) + 1)), "and without a gap"
        in_flight = life.came[len(life.verdicts) :]
        assert all(at_s > killed_s - 0.7 for _, at_s, _ in in_flight), "only the last marbles have no verdict"
        tail += len(in_flight)
        marbles += len(life.came)
        verdicts += len(life.verdicts)
        safe += sum(row.error is not None for row in rows)
        box.start()
        restarts_s.append(box.device.life.verdicts[0][1] - killed_s)
    note = f"{tail} of them in view at the kill; first verdict again after {max(restarts_s):.1f} s at most"
    ROWS.append(
        FaultRow(
            fault="SIGKILL at random, 3 times",
            marbles=marbles,
            verdicts=verdicts,
            safe=safe,
            uncertain=0,
            counted={},
            note=note,
        )
    )
    box.end(None)


def test_everything_at_once(bundle, photos, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    outbox = f'bucket = "s3://nowhere"\nendpoint_url = "http://127.0.0.1:{free_port()}"'
    config = configuration(bundle, tmp_path, outbox=outbox, dashboard=address)
    box = Watched(tmp_path, tmp_path, config, photos)
    for name, for_s in (("full", 0.5), ("dashboard", 0.1), ("gone", 0.7), ("clock", -1.7e9)):
        box.device.fault(name, for_s)
    box.sort(10)
    for name, for_s in (("readonly", 0.4), ("inference", 0.3), ("clock", 2.3e9), ("black", 0.8)):
        box.device.fault(name, for_s)
    box.sort(10)
    for name, for_s in (("hang", 0.8), ("slow", 0.5)):
        box.device.fault(name, for_s)
    box.sort(20)
    report = box.end("all at once: disk, dashboard, camera, clock, model, S3 away")
    counted = report["events"]
    assert counted["camera_failures"] >= 1
    assert counted["inference_failures"] + counted["black_frames"] + counted["deadlines_missed"] >= 10
    assert report["errors"] >= 10
