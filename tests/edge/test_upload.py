from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from okko_edge.commands.outbox import outbox as command
from okko_edge.events import Counters, Event
from okko_edge.frame_file import encode
from okko_edge.outbox import S3, OutboxFolder, Reason, Target, Uploader, UploadError, open_outbox
from okko_edge.outbox.uploader import LONGEST_PAUSE_S, pause_s
from okko_edge.settings import OutboxSettings
from okko_models.errors import OkkoError
from tests.edge.dashboard_fakes import decision, frame
from tests.edge.s3_fakes import Proxy
from tests.edge.test_outbox import add, sidecar
from tests.s3_servers import KEY, SECRET, SERVERS, s3_server

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nowhere",
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
}


@pytest.fixture(scope="module", params=SERVERS)
def server(request):
    with s3_server(request.param) as url:
        yield url


@pytest.fixture
def proxy(server):
    between = Proxy(server)
    yield between
    between.close()


class Bucket:
    """A bucket that remembers every version of every object, so that a second write would show."""

    def __init__(self, server, name):
        import boto3

        self.name = name
        self._client = boto3.client("s3", endpoint_url=server, region_name="us-east-1")
        self._client.create_bucket(Bucket=name)
        self._client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})

    def versions(self):
        return sorted(one["Key"] for one in self._client.list_object_versions(Bucket=self.name).get("Versions", []))

    def read(self, key):
        return self._client.get_object(Bucket=self.name, Key=key)["Body"].read()


@pytest.fixture
def bucket(server, monkeypatch, request):
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return Bucket(server, f"b{abs(hash(request.node.name))}")


@pytest.fixture
def store(tmp_path):
    """An outbox with three frames; the second is UNCERTAIN."""
    box = OutboxFolder(tmp_path / "box", 10**9)
    for number, reason in enumerate([Reason.RANDOM, Reason.UNCERTAIN, Reason.UNLIKE_TRAINING], 1):
        add(box, number, reason)
    yield box
    box.close()


def uploader(store, bucket, url, **options):
    target = Target(bucket.name, "okko/line 1/")
    s3 = S3(target, endpoint_url=url, connect_timeout_s=2, read_timeout_s=options.pop("read_timeout_s", 5))
    options = {"retry_s": 0.02, "warn": lambda _: None, "counters": Counters(), "lot": lambda: 0.0} | options
    return Uploader(store, s3, **options)


def keys_of(*numbers, prefix="okko/line 1/bench/"):
    digests = [sidecar(number).digest for number in numbers]
    return sorted(f"{prefix}{digest}{suffix}" for digest in digests for suffix in (".png", ".json"))


def closed_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_each_frame_and_what_is_known_about_it_is_uploaded_once(store, bucket, server):
    counters = Counters()
    up = uploader(store, bucket, server, counters=counters)
    done = up.upload_waiting()
    assert (done.frames, done.labels, done.waiting, done.error) == (3, 0, 0, None)
    assert bucket.versions() == keys_of(1, 2, 3)
    base = f"okko/line 1/bench/{sidecar(2).digest}"
    assert bucket.read(f"{base}.png") == encode(frame(2).image)
    assert json.loads(bucket.read(f"{base}.json"))["reason"] == "uncertain"
    assert up.upload_waiting().frames == 0
    assert bucket.versions() == keys_of(1, 2, 3)
    assert counters[Event.UPLOADED] == 3


def test_the_most_valuable_go_first_and_an_image_before_its_sidecar(store, bucket, proxy):
    uploader(store, bucket, proxy.url).upload_waiting()
    assert [path.rsplit("/", 1)[1] for path in proxy.puts] == [
        f"{sidecar(number).digest}{suffix}" for number in (2, 3, 1) for suffix in (".png", ".json")
    ]


def test_a_label_that_comes_after_the_upload_is_uploaded_too_and_so_is_its_correction(store, bucket, server):
    up = uploader(store, bucket, server)
    up.upload_waiting()
    digest = sidecar(1).digest
    for revision, label in enumerate(["KO", "OK"], 1):
        store.set_label(digest, label, 1.7e9)
        assert (up.upload_waiting().frames, up.upload_waiting().labels) == (0, 0)
        key = f"okko/line 1/bench/{digest}.label-{revision}.json"
        assert json.loads(bucket.read(key)) == {
            "digest": digest,
            "label": label,
            "unix_s": 1.7e9,
            "revision": revision,
        }
    assert len(bucket.versions()) == 8


def test_what_s3_has_already_counts_as_done(store, bucket, server, tmp_path):
    uploader(store, bucket, server).upload_waiting()
    for marker in (tmp_path / "box").glob("*.sent.json"):
        marker.unlink()
    again = OutboxFolder(tmp_path / "box", None)
    done = uploader(again, bucket, server).upload_waiting()
    assert (done.frames, done.waiting) == (3, 0)
    assert bucket.versions() == keys_of(1, 2, 3)


class PowerCut(BaseException):
    """Not an error that anything handles."""


class CutAt:
    """An S3 of which the power goes before or after the n-th object."""

    def __init__(self, s3, n, *, after):
        self.target = s3.target
        self._s3, self._left, self._after = s3, n, after

    def put_new(self, *arguments):
        self._left -= 1
        if self._left == 0 and not self._after:
            raise PowerCut
        self._s3.put_new(*arguments)
        if self._left == 0:
            raise PowerCut


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("n", range(1, 8))
def test_power_cut_at_any_object_and_started_again_each_is_there_once(store, bucket, server, tmp_path, n, after):
    store.set_label(sidecar(3).digest, "KO", 1.7e9)
    s3 = S3(Target(bucket.name, "okko/line 1/"), endpoint_url=server)
    options = {"retry_s": 1, "warn": print, "counters": Counters()}
    with pytest.raises(PowerCut):
        Uploader(store, CutAt(s3, n, after=after), **options).upload_waiting()
    again = Uploader(OutboxFolder(tmp_path / "box", None), s3, **options).upload_waiting()
    assert (again.waiting, again.error) == (0, None)
    assert bucket.versions() == sorted([*keys_of(1, 2, 3), f"okko/line 1/bench/{sidecar(3).digest}.label-1.json"])


KILLED = """
import sys
sys.path[:0] = {roots!r}
from pathlib import Path
from okko_edge.events import Counters
from okko_edge.outbox import S3, OutboxFolder, Target, Uploader
s3 = S3(Target({bucket!r}, ""), endpoint_url={url!r})
Uploader(OutboxFolder(Path({path!r}), 10**9), s3, retry_s=1, warn=print, counters=Counters()).upload_waiting()
"""


def test_killed_again_and_again_it_goes_on_where_it_was(tmp_path, bucket, proxy):
    store = OutboxFolder(tmp_path / "box", 10**9)
    for number in range(1, 31):
        add(store, number)
    store.close()
    lot = random.Random(0)
    program = KILLED.format(
        roots=[str(Path(__file__).parents[2])], bucket=bucket.name, url=proxy.url, path=str(tmp_path / "box")
    )
    for _ in range(3):
        before = len(proxy.puts)
        with subprocess.Popen([sys.executable, "-c", program]) as process:
            until(lambda: len(proxy.puts) > before or process.poll() is not None)  # noqa: B023
            time.sleep(lot.random() * 0.1)
            process.kill()
    subprocess.run([sys.executable, "-c", program], check=True)
    assert bucket.versions() == keys_of(*range(1, 31), prefix="bench/")
    assert not [item for item in OutboxFolder(tmp_path / "box", None).items() if item.sent is None]


@pytest.mark.parametrize("fault", ["500", "cut", "lost", "slow"])
@pytest.mark.parametrize("at", [0, 1])
def test_whatever_s3_does_the_frame_waits_and_is_uploaded_once_later(store, bucket, proxy, fault, at):
    counters = Counters()
    up = uploader(store, bucket, proxy.url, counters=counters, read_timeout_s=0.5)
    proxy.faults.extend(["ok"] * at + [fault])
    done = up.upload_waiting()
    assert (done.frames, done.waiting) == (0, 3)
    assert f"s3://{bucket.name}/okko/line 1/bench/" in done.error
    assert counters[Event.UPLOAD_FAILED] == 1
    assert up.upload_waiting().waiting == 0
    if fault == "slow":
        until(lambda: len(bucket.versions()) == 6)
    assert bucket.versions() == keys_of(1, 2, 3)


def test_an_object_that_always_fails_does_not_keep_the_others_waiting(store, bucket, server):
    poison = sidecar(2).digest

    class Picky(S3):
        def put_new(self, name, data, content_type):
            if poison in name:
                raise UploadError("not this one")
            return super().put_new(name, data, content_type)

    up = Uploader(
        store,
        Picky(Target(bucket.name, ""), endpoint_url=server),
        retry_s=1,
        warn=print,
        counters=Counters(),
    )
    assert up.upload_waiting().frames == 0
    done = up.upload_waiting()
    assert (done.frames, done.waiting, done.error) == (2, 1, "not this one")


def test_offline_it_keeps_trying_and_is_done_when_there_is_a_network(store, bucket, proxy):
    told = []
    proxy.faults.extend(["500"] * 5)
    counters = Counters()
    up = uploader(store, bucket, proxy.url, warn=told.append, counters=counters)
    up.start()
    until(lambda: counters[Event.UPLOADED] == 3)
    assert counters[Event.UPLOAD_FAILED] == 5
    assert len(told) == 1
    assert "3 frames wait" in told[0]
    add(store, 4)
    up.wake()
    until(lambda: counters[Event.UPLOADED] == 4)
    up.close()
    assert bucket.versions() == keys_of(1, 2, 3, 4)


def test_with_nobody_there_the_reason_is_told_and_ending_takes_no_longer(store, bucket):
    told = []
    up = uploader(store, bucket, f"http://127.0.0.1:{closed_port()}", warn=told.append, retry_s=3600)
    up.start()
    until(lambda: told)
    assert "Could not connect" in told[0]
    up.close()
    assert not up._thread.is_alive()


def test_pauses_double_up_to_an_hour_and_differ_between_devices():
    assert [pause_s(failures, 5, 0.0) for failures in (1, 2, 3, 4)] == [5, 10, 20, 40]
    assert pause_s(20, 5, 0.0) == pause_s(10**6, 5, 0.0) == LONGEST_PAUSE_S == 3600
    assert pause_s(1, 7200, 0.0) == pause_s(9, 7200, 0.0) == 7200
    assert pause_s(4, 5, 0.999) == pytest.approx(20, rel=0.01)


def test_two_uploaders_at_once_write_nothing_twice(store, bucket, server, tmp_path):
    ups = [uploader(OutboxFolder(tmp_path / "box", None), bucket, server) for _ in range(3)]
    results = []
    threads = [threading.Thread(target=lambda up=up: results.append(up.upload_waiting())) for up in ups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for up in ups:
        assert up.upload_waiting().waiting == 0
    assert bucket.versions() == keys_of(1, 2, 3)


def test_a_damaged_frame_is_removed_and_not_uploaded(store, bucket, server, tmp_path):
    path = tmp_path / "box" / f"{sidecar(2).digest}.png"
    path.write_bytes(path.read_bytes()[:500])
    counters = Counters()
    done = uploader(store, bucket, server, counters=counters).upload_waiting()
    assert (done.frames, done.waiting, done.error) == (2, 0, None)
    assert counters[Event.OUTBOX_LOST] == 1
    assert bucket.versions() == keys_of(1, 3)


def test_a_frame_that_had_to_make_room_meanwhile_is_no_error(store, bucket, server, tmp_path):
    (tmp_path / "box" / f"{sidecar(2).digest}.png").unlink()
    done = uploader(store, bucket, server).upload_waiting()
    assert (done.frames, done.error) == (2, None)


def test_another_bucket_gets_everything_again(store, bucket, server):
    store.set_label(sidecar(2).digest, "KO", 1.7e9)
    uploader(store, bucket, server).upload_waiting()
    other = Bucket(server, f"{bucket.name}x")
    done = uploader(store, other, server).upload_waiting()
    assert (done.frames, done.labels) == (3, 1)
    assert other.versions() == bucket.versions()
    assert len(other.versions()) == 7


def test_no_bucket_and_no_credentials_are_named(store, bucket, server, monkeypatch):
    bucket.name += "missing"
    assert "NoSuchBucket" in uploader(store, bucket, server).upload_waiting().error
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    assert "credentials" in uploader(store, bucket, server).upload_waiting().error


def test_without_boto3_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OkkoError, match=r"okko\[cloud\]"):
        S3(Target("b", ""))


@pytest.mark.parametrize(
    ("text", "bucket", "prefix"),
    [("s3://b", "b", ""), ("s3://b/", "b", ""), ("s3://b/p", "b", "p/"), ("s3://b/p/q/", "b", "p/q/")],
)
def test_a_target_is_a_bucket_and_a_prefix(text, bucket, prefix):
    assert Target.parse(text) == Target(bucket, prefix)
    assert Target.parse(str(Target.parse(text))) == Target(bucket, prefix)


@pytest.mark.parametrize("text", ["b/p", "s3://", "s3:///p", "https://b"])
def test_what_is_no_target_is_named(text):
    with pytest.raises(OkkoError, match="s3://BUCKET"):
        Target.parse(text)


def test_opened_by_the_settings_a_frame_goes_from_the_belt_to_the_bucket(tmp_path, bucket, bundle, server):
    counters = Counters()
    settings = OutboxSettings(
        enabled=True,
        folder=str(tmp_path / "box"),
        bucket=f"s3://{bucket.name}/p",
        endpoint_url=server,
        device="bench",
        random_share=0.0,
    )
    box, up = open_outbox(settings, bundle, warn=print, counters=counters)
    box.hear(decision(1, 0.5))
    until(lambda: counters[Event.UPLOADED] == 1)
    box.close()
    up.close()
    assert bucket.versions() == keys_of(1, prefix="p/bench/")
    box, up = open_outbox(OutboxSettings(folder=str(tmp_path / "box")), bundle, warn=print, counters=counters)
    box.close()
    assert up is None


def test_the_command_uploads_once_and_says_what_still_waits(store, bucket, proxy, tmp_path):
    config = tmp_path / "okko.toml"
    config.write_text(
        f'[outbox]\nfolder = "box"\nbucket = "s3://{bucket.name}/okko/line 1"\nendpoint_url = "{proxy.url}"\n'
    )

    def run(*arguments):
        return CliRunner().invoke(command, ["upload", "--config", str(config), *arguments], env={"OKKO_CONFIG": ""})

    proxy.faults.extend(["ok", "ok", "500"])
    failed = run("--json")
    told = json.loads(failed.stdout)
    assert (failed.exit_code, told["frames"], told["waiting"]) == (1, 1, 2)
    assert "InternalError" in told["error"]
    done = run()
    assert done.exit_code == 0
    assert done.stdout.startswith("2 frames and 0 labels uploaded")
    assert bucket.versions() == keys_of(1, 2, 3)
