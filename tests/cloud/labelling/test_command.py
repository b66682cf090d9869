"""`okko label` itself."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import pytest
from click.testing import CliRunner

from okko_cloud.commands.label import label as command
from okko_models.errors import OkkoError
from tests.cloud.labelling.rooms import Bucket, Folder, bucket_name, png

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(command, [str(each) for each in arguments])


def test_the_list_names_photos_reasons_and_guesses(folder: Folder, redness_bundle: Callable[..., Path]):
    folder.put({"unlabelled/a.png": png(128), "KO/wrong.png": png(220), "OK/right.png": png(220)})
    done = invoke(folder.root, "--model", redness_bundle(), "--list", "--json")
    assert done.exit_code == 0, done.output
    listed = json.loads(done.stdout)
    assert listed["labels"] == ["OK", "KO"]
    rows = [(row["photo"], row["label"], row["reason"], row["guess"]) for row in listed["photos"]]
    assert rows == [
        ("unlabelled/a.png", None, "the model is uncertain", "OK"),
        ("KO/wrong.png", "KO", "the label is likely wrong", "OK"),
    ]
    text = invoke(folder.root, "--model", redness_bundle(), "--list").stdout.splitlines()
    assert "the model is uncertain" in text[0]
    assert "KO/wrong.png" in text[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{root}/nothing"], "is no folder"),
        (["{root}", "--labels", "a/b"], "cannot be a label"),
        (["s3://"], "names no bucket"),
        (["{root}", "--model", "{root}/no.okko"], "no.okko"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(folder: Folder, arguments: list[str], says: str):
    done = invoke(*[each.format(root=folder.root) for each in arguments])
    assert isinstance(done.exception, OkkoError)
    assert says in str(done.exception)


def test_photos_whose_labels_stand_in_a_list_are_refused(folder: Folder):
    folder.put({"photos.csv": b"file,label\na.png,OK\n", "a.png": png(1)})
    assert "photos.csv" in str(invoke(folder.root, "--list").exception)


def test_a_devices_own_outbox_is_left_alone(folder: Folder):
    folder.put({f"{'0' * 64}.png": png(1), f"{'0' * 64}.json": b"{}"})
    assert "the outbox of a device" in str(invoke(folder.root, "--list").exception)


def test_a_bucket_of_okko_cloud_is_labelled_below_its_photos(client: Any, s3_url: str):
    bucket = Bucket(client, bucket_name(), "line 1/")
    bucket.put(
        {"photos/unlabelled/a.png": png(1), "registry/targets/golden.png": png(2), "training/settings.json": b"{}"}
    )
    done = invoke(bucket.place, "--endpoint-url", s3_url, "--list", "--json")
    assert done.exit_code == 0, done.output
    assert [row["photo"] for row in json.loads(done.stdout)["photos"]] == ["unlabelled/a.png"]


def test_a_bucket_that_is_not_there_is_said_in_a_sentence(s3_url: str, credentials: None):
    done = invoke(f"s3://{bucket_name()}/x", "--endpoint-url", s3_url, "--list")
    assert isinstance(done.exception, OkkoError)
    assert "bucket does not exist" in str(done.exception)


def ask(url: str, path: str, content: dict[str, object]) -> Any:
    headers = {"content-type": "application/json", "origin": url.rstrip("/")}
    body = json.dumps({"session": "abcdefgh", "who": "Anna", **content}).encode()
    with urlopen(Request(url.rstrip("/") + path, body, headers), timeout=30) as answer:
        return json.load(answer)


def test_it_serves_until_ctrl_c_gives_leases_back_and_prints_sums_as_json(client: Any, s3_url: str):
    bucket = Bucket(client, bucket_name())
    bucket.put({f"unlabelled/{number}.png": png(number, number) for number in range(3)})
    program = "from okko_cloud.commands.label import label; label()"
    arguments = [bucket.place, "--endpoint-url", s3_url, "--port", "0", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    watchdog = threading.Timer(90, process.kill)
    watchdog.start()
    try:
        assert process.stderr
        found = re.search(r"http://127\.0\.0\.1:\d+/", process.stderr.readline())
        assert found
        photos = ask(found[0], "/take", {"holding": [], "count": 2})["photos"]
        assert len(photos) == 2
        ask(found[0], "/decide", {"number": photos[0]["number"], "revision": 0, "label": "KO"})
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert json.loads(out) == {"decisions": 1, "left": 2, "unlabelled": 2, "labels": {"OK": 0, "KO": 1}}
    assert not [name for name in bucket.own() if name.startswith("leases/")]


def test_help_is_short_and_needs_no_model_no_network_and_no_s3():
    program = (
        "import sys\nfrom okko_cloud.commands.label import label\n"
        "try:\n    label(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'boto3', 'onnxruntime', 'numpy', 'PIL', 'okko_train', 'okko_edge'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "S skips, U undoes" in done.stdout
