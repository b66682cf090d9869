"""The whole loop as a user has it: commands, a real S3 server, a real training, a device that fetches what came out."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from okko_cloud.bucket import BucketPhotos
from okko_cloud.local.cloud import Folder, run
from okko_cloud.local.seaweed import SeaweedFS
from okko_cloud.place import Place, Settings, load_settings
from okko_models.classifier import Classifier
from okko_models.registry.client import Client
from okko_models.registry.s3 import S3Store
from okko_models.registry.transport import StoreTransport
from tests.cloud.fakes import photos
from tests.cloud.servers import KEYS, moto_server, seaweed

MAIN = (
    "import sys, click\n"
    "from okko_models.errors import OkkoError\n"
    "from okko_cloud.commands.cloud import cloud\n"
    "try: cloud(prog_name='okko cloud')\n"
    "except OkkoError as error: click.echo(f'Error: {error}', err=True); sys.exit(1)\n"
)


@pytest.fixture(scope="module")
def okko(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")

    def run(*arguments, fails=False):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
            env=environment | {"OKKO_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    run.cache = cache
    return run


def processes_of(folder):
    """The command lines and working directories of processes that have to do with a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in words or str(folder) in str((process / "cwd").readlink()):
                found.append(words)
    return found


@pytest.fixture(scope="module")
def loop(okko, tmp_path_factory):
    """A cloud that has been fed, has trained for real, was taken down, and is up again."""
    folder, source = tmp_path_factory.mktemp("cloud"), tmp_path_factory.mktemp("photos")
    for key, data in photos(12).items():
        (source / key).parent.mkdir(exist_ok=True)
        (source / key).write_bytes(data)
    settings = ("--quiet-minutes", "0.02", "--trials", "2", "--name", "marbles", "--confidence", "0.5")
    try:
        okko("up", "--local", folder, "--detach", *settings)
        okko("upload", source, "--local", folder)
        first = json.loads(okko("status", folder, "--wait", "--json"))
        okko("down", folder)
        left = processes_of(folder)
        okko("up", "--local", folder, "--detach")
        yield folder, first, left
    finally:
        with contextlib.suppress(AssertionError):
            okko("down", folder)


def test_a_job_has_the_environment_of_whoever_started_the_cloud(loop, okko):
    assert (okko.cache / "features.sqlite").is_file(), "what is remembered of photos is where OKKO_CACHE says"


def test_photos_that_land_become_a_signed_model_that_a_device_fetches(loop, tmp_path, monkeypatch):
    folder, first, _ = loop
    (job,) = first["jobs"]
    assert job["kind"] in {"promoted", "kept"}, job
    done = job["outcome"]["done"]
    assert done["photos"] == {"KO": 12, "OK": 12}
    for name, value in Folder(folder).environment().items():
        monkeypatch.setenv(name, value)
    client = Client(tmp_path / "trust", StoreTransport(S3Store("okko", "registry/")))
    client.enroll((folder / "keys" / "root.json").read_bytes())
    fetched = client.fetch(tmp_path / "bundles", "candidate")
    assert fetched.bundle.digest == done["bundle"]
    assert fetched.bundle.manifest.dataset.digest == done["dataset"]
    assert fetched.bundle.manifest.name == "marbles"
    Classifier(fetched.bundle).self_test()


def test_photos_models_and_history_outlive_a_restart_and_nothing_is_trained_again(loop, okko):
    folder, first, _ = loop
    now = json.loads(okko("status", folder, "--json"))
    words = okko("status", folder)
    assert now["up"]
    assert now["jobs"] == first["jobs"]
    assert now["candidate"]["bundle"] == first["jobs"][0]["outcome"]["done"]["bundle"]
    assert now["endpoint"] == first["endpoint"]
    assert not now["waiting"]
    assert "nothing waits" in words
    assert "24 photos" in words


def test_down_leaves_no_process_behind(loop):
    assert loop[2] == []


def test_it_listens_on_loopback_alone(loop):
    port = int(json.loads((loop[0] / "running.json").read_text())["endpoint"].rpartition(":")[2])
    tables = [path for path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")) if path.exists()]
    lines = [line.split() for path in tables for line in path.read_text().splitlines()]
    listening = "0A"
    ours = [line[1] for line in lines if line[1].endswith(f":{port:04X}") and line[3] == listening]
    assert ours == [f"0100007F:{port:04X}"]


def test_secrets_are_for_this_user_alone_and_are_never_told(loop, okko):
    folder = loop[0]
    server = folder / "server"
    secret_files = [server / "aws-credentials", server / "s3.json", folder / "keys" / "passphrase"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in secret_files)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    secrets = [line.rpartition("= ")[2] for line in (server / "aws-credentials").read_text().splitlines()[1:]]
    secrets.append((folder / "keys" / "passphrase").read_text())
    told = okko("logs", folder, "-n", 1000) + okko("env", folder)
    told += "".join(processes_of(folder))
    assert "AWS_SHARED_CREDENTIALS_FILE" in told
    assert len(secrets) == 3
    assert not any(secret in told for secret in secrets)


def test_a_second_cloud_in_the_same_folder_is_refused(loop, okko):
    assert "runs in" in okko("up", "--local", loop[0], fails=True)


def test_what_is_asked_of_a_folder_without_a_cloud_is_answered_in_words(okko, tmp_path):
    for words in (("status", tmp_path), ("logs", tmp_path)):
        assert "no cloud ran" in okko(*words, fails=True)
    assert "nothing ran" in okko("down", tmp_path)
    assert "start it with" in okko("upload", tmp_path, "--local", tmp_path, fails=True)
    assert "--place" in okko("up", "--local", tmp_path, "--endpoint-url", "http://127.0.0.1:1", fails=True)
    assert "confidence" in okko("up", "--local", tmp_path, "--confidence", "0.2", fails=True)


def test_it_works_on_an_s3_that_runs_already_and_starts_none(tmp_path, monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    folder, stop, said = Folder(tmp_path / "cloud"), threading.Event(), []
    with moto_server() as url:
        place = Place("marbles", "mine/", url)
        place.client().create_bucket(Bucket="marbles")
        loop = threading.Thread(
            target=run,
            args=(folder,),
            kwargs={"place": place, "change": lambda _: Settings(name="m"), "stop": stop, "say": said.append},
        )
        loop.start()
        try:
            end = time.monotonic() + 60
            while folder.read_running() is None and time.monotonic() < end:
                time.sleep(0.05)
            running = folder.read_running()
        finally:
            stop.set()
            loop.join(60)
        assert (running.place, running.endpoint, running.external) == ("s3://marbles/mine", "", url)
        assert load_settings(place.store()) == Settings(name="m")
        assert place.registry().get("metadata/timestamp.json") is not None
    assert not (folder.path / "server").exists()
    assert not folder.is_up()
    assert "key" not in " ".join(said)


def test_help_imports_nothing_heavy(okko):
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom okko_cloud.commands.cloud import cloud\n"
        "said = CliRunner().invoke(cloud, ['--help']).output\n"
        "assert all(name in said for name in ('up', 'upload', 'status', 'logs', 'down', 'job', 'plan', 'cost')), said\n"
        "heavy = {'boto3', 'tuf', 'numpy', 'moto', 'okko_train'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_server_tells_of_uploads_and_forgets_nothing_when_it_is_killed(tmp_path):
    from okko_cloud.local.receiver import Receiver

    heard = []
    receiver = Receiver("okko", "", "secret", heard.append, heard.append)
    try:
        with seaweed(tmp_path, webhook=receiver.url, token="secret") as server:
            client = server._client()
            for key in ("photos/OK/a b+c %.jpg", "training/x.json", "registry/y.json"):
                client.put_object(Bucket="okko", Key=key, Body=b"photo")
            end = time.monotonic() + 20
            while not heard and time.monotonic() < end:
                time.sleep(0.05)
            os.kill(server._process.pid, signal.SIGKILL)
        assert heard == [1]
        again = SeaweedFS(tmp_path)
        try:
            again.start(Place("okko"), receiver.url, "secret")
            assert [listed.key for listed in BucketPhotos(Place("okko"), again._client()).list()] == ["OK/a b+c %.jpg"]
        finally:
            again.stop()
    finally:
        receiver.close()
