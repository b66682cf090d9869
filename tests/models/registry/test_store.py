import contextlib
import functools
import threading

import pytest

from okko_models.registry.checking import check
from okko_models.registry.client import Client
from okko_models.registry.errors import MissingError, OfflineError, RegistryError
from okko_models.registry.root import init
from okko_models.registry.s3 import S3Store
from okko_models.registry.store import FolderStore, open_store
from okko_models.registry.transport import open_transport
from tests.models.registry.simulator import MemoryStore, Simulator
from tests.s3_servers import KEY, SECRET, SERVERS, s3_server


@pytest.fixture(scope="module")
def servers():
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda kind: stack.enter_context(s3_server(kind)))


@pytest.fixture
def new_bucket(monkeypatch, tmp_path):
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    def make(url):
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket=f"b{abs(hash(tmp_path))}")
        return open_store(f"s3://b{abs(hash(tmp_path))}/models", endpoint_url=url)

    return make


@pytest.fixture(params=SERVERS)
def s3_url(request, servers):
    return servers(request.param)


@pytest.fixture
def s3(s3_url, new_bucket):
    return new_bucket(s3_url)


@pytest.fixture(params=["memory", "folder", *SERVERS])
def store(request, tmp_path, servers, new_bucket):
    if request.param in SERVERS:
        return new_bucket(servers(request.param))
    return MemoryStore() if request.param == "memory" else FolderStore(tmp_path / "registry")


def test_every_store_keeps_the_same_promises(store):
    assert store.get("a/b.json") is None
    assert store.put_new("a/b.json", b"one")
    assert not store.put_new("a/b.json", b"two")
    first = store.get("a/b.json")
    assert first.data == b"one"
    assert not store.put_if("a/b.json", b"two", '"0"')
    assert not store.put_if("a/c.json", b"two", first.tag)
    assert store.put_if("a/b.json", b"two", first.tag)
    assert not store.put_if("a/b.json", b"three", first.tag)
    assert store.get("a/b.json").tag != first.tag
    assert b"".join(store.read("a/b.json", 0)) == b"two"
    assert b"".join(store.read("a/b.json", 1)) == b"wo"
    with pytest.raises(MissingError):
        list(store.read("a/c.json", 0))
    store.put_new("a/d/e.json", b"")
    assert store.list("a/") == ["a/b.json", "a/d/e.json"]
    assert store.list("a/d") == ["a/d/e.json"]
    store.delete("a/d/e.json")
    store.delete("a/d/e.json")
    assert store.list("") == ["a/b.json"]


def test_of_many_who_swap_the_same_content_one_succeeds(store):
    store.put_new("x.json", b"0")
    tag, won = store.get("x.json").tag, []
    threads = [
        threading.Thread(target=lambda i=i: won.append(i) if store.put_if("x.json", b"%d" % i, tag) else None)
        for i in range(1, 6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [b"%d" % i for i in won] == [store.get("x.json").data]


@pytest.mark.parametrize(
    "key", ["../x", "/etc/passwd", "a/../../x", "a//b", ".lock", "a/.b", "", "a\nb", "a/" * 9 + "b"]
)
def test_no_name_leads_out_of_a_registry(tmp_path, key):
    with pytest.raises(RegistryError, match="no name of a file"):
        FolderStore(tmp_path / "registry").put_new(key, b"x")
    assert not list(tmp_path.iterdir())


def test_the_whole_life_of_a_registry_in_a_bucket(s3, tmp_path, redness_bundle):
    simulator = Simulator(tmp_path / "sim", redness_bundle, s3)
    first, second = simulator.release("1"), simulator.release("2")
    simulator.publisher.roll_back()
    report = check(s3, simulator.publisher.look(), simulator.time)
    assert (report.errors, report.entries) == ((), 4)
    client = Client(tmp_path / "device", open_transport(str(s3), endpoint_url=s3._endpoint_url), clock=simulator.clock)
    client.enroll(simulator.root)
    assert client.fetch(tmp_path / "models").bundle.digest == first.digest
    assert simulator.publisher.sweep(keep=0) == [second.digest]


def test_a_bucket_with_more_names_than_one_answer_holds_is_listed_whole(s3, monkeypatch):
    for number in range(5):
        s3.put_new(f"log/{number}.json", b"")
    client = s3._client
    whole = client.list_objects_v2
    monkeypatch.setattr(client, "list_objects_v2", lambda **arguments: whole(MaxKeys=2, **arguments))
    assert len(s3.list("log/")) == 5


def test_a_store_that_does_not_keep_its_promises_is_found_out(tmp_path, redness_bundle):
    class Careless(MemoryStore):
        def put_new(self, key, data):
            self.files[key] = data
            return True

    simulator = Simulator(tmp_path / "sim", redness_bundle)
    with pytest.raises(RegistryError, match="overwrites files"):
        init(simulator.someone("bob", store=Careless()))


def test_a_bucket_that_is_not_there_and_a_network_that_is_not_there_are_told_apart(s3_url, s3):
    with pytest.raises(RegistryError, match="NoSuchBucket"):
        open_store("s3://nowhere/x", endpoint_url=s3_url).put_new("a.json", b"")
    offline = S3Store.parse("s3://nowhere/x", endpoint_url="http://127.0.0.1:9")
    with pytest.raises(OfflineError):
        offline.get("a.json")


@pytest.mark.parametrize("location", ["s3://", "https://example.org/x", "ftp://x/y"])
def test_a_place_that_cannot_be_written_is_refused(location):
    with pytest.raises(RegistryError):
        open_store(location)


def test_what_interrupted_writes_left_is_removed(tmp_path):
    store = FolderStore(tmp_path / "registry")
    store.put_new("log/1.json", b"x")
    (tmp_path / "registry" / "log" / ".new-abc").write_bytes(b"half")
    assert store.list("") == ["log/1.json"]
    assert store.delete_leftovers() == 1
    assert not (tmp_path / "registry" / "log" / ".new-abc").exists()


def test_a_device_that_may_not_list_a_bucket_takes_forbidden_for_missing(s3):
    from botocore.stub import Stubber

    s3.get("a.json")
    with Stubber(s3._client) as stub:
        stub.add_client_error("get_object", "AccessDenied", http_status_code=403)
        with pytest.raises(MissingError, match="may not be read"):
            list(s3.read("metadata/2.root.json", 0))
        stub.add_client_error("get_object", "AccessDenied", http_status_code=403)
        with pytest.raises(RegistryError, match="AccessDenied"):
            s3.get("metadata/timestamp.json")


def test_writes_that_met_in_the_store_are_tried_again_and_those_that_lost_are_not(s3):
    from botocore.stub import Stubber

    s3.get("a.json")
    with Stubber(s3._client) as stub:
        stub.add_client_error("put_object", "ConditionalRequestConflict", http_status_code=409)
        stub.add_response("put_object", {})
        assert s3.put_new("a.json", b"")
        stub.add_client_error("put_object", "ConditionalRequestConflict", http_status_code=409)
        stub.add_client_error("put_object", "PreconditionFailed", http_status_code=412)
        assert not s3.put_if("a.json", b"", '"0"')
        stub.add_client_error("put_object", "InternalError", http_status_code=500)
        with pytest.raises(OfflineError):
            s3.put_new("a.json", b"")
