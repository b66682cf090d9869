import contextlib
import json

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okko_cloud.events import UNLABELLED, Change, EventError, Latest, concerns, parse
from okko_cloud.labelling import layout

ODD_KEYS = (
    "photos/OK/a b.jpg",
    "photos/OK/a+b.jpg",
    "photos/OK/50%.jpg",
    "photos/OK/%2B%20.jpg",
    "photos/KO/Murmel größer 弾.png",
    "photos/KO/=&?#'\"\\.png",
)


def quoted(key):
    from urllib.parse import quote_plus

    return quote_plus(key, safe="/")


def notification(key, name="ObjectCreated:Put", **found):
    return {
        "eventSource": "aws:s3",
        "eventName": name,
        "s3": {"bucket": {"name": "b"}, "object": {"key": quoted(key), "eTag": "e1", "sequencer": "0055", **found}},
    }


def bridged(key, kind="Object Created", **found):
    return {
        "source": "aws.s3",
        "detail-type": kind,
        "detail": {"bucket": {"name": "b"}, "object": {"key": key, "etag": "e1", "sequencer": "0055", **found}},
    }


@pytest.mark.parametrize("key", ODD_KEYS)
def test_keys_are_what_they_are_in_the_bucket_whichever_way_the_event_came(key):
    expected = (Change("b", key, removed=False, etag="e1", sequencer="0055"),)
    record = json.dumps({"Records": [notification(key)]})
    for message in (
        record,
        json.dumps(bridged(key)),
        json.dumps({"Type": "Notification", "Message": record}),
        json.dumps({"Records": [{"eventSource": "aws:sqs", "body": record}]}),
        json.dumps({"Records": [{"eventSource": "aws:sqs", "body": json.dumps(bridged(key))}]}),
        json.dumps({"Records": [{"EventSource": "aws:sns", "Sns": {"Message": record}}]}),
        json.dumps({"Records": [notification(key, "s3:ObjectCreated:Copy")]}),
    ):
        assert parse(message) == expected


@pytest.mark.parametrize("key", ODD_KEYS)
def test_the_events_of_an_emulated_s3_name_the_keys_that_were_written(key, moto):
    s3, sqs = boto3.client("s3"), boto3.client("sqs")
    s3.create_bucket(Bucket="bucket")
    url = sqs.create_queue(QueueName="q")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    s3.put_bucket_notification_configuration(
        Bucket="bucket",
        NotificationConfiguration={"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]},
    )
    s3.put_object(Bucket="bucket", Key=key, Body=b"photo")
    bodies = [message["Body"] for message in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]]
    assert any("s3:TestEvent" in body for body in bodies)
    assert [change.key for body in bodies for change in parse(body)] == [key]


def test_deletions_are_told_from_writings_and_other_events_are_none():
    gone = ("ObjectRemoved:Delete", "ObjectRemoved:DeleteMarkerCreated", "LifecycleExpiration:Delete")
    assert all(parse(json.dumps({"Records": [notification("k", name)]}))[0].removed for name in gone)
    assert parse(json.dumps(bridged("k", "Object Deleted")))[0].removed
    test = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"}
    others = (
        test,
        {"Records": []},
        {"Records": [notification("k", "ObjectTagging:Put")]},
        {"Records": [notification("k", "ObjectRestore:Completed")]},
        bridged("k", "Object Tags Added"),
    )
    assert [parse(json.dumps(message)) for message in others] == [()] * len(others)


def test_the_webhook_of_seaweedfs_tells_of_files_and_not_of_folders():
    folder = {"event_type": "create", "key": "/buckets/b/photos", "message": {"new_entry": {"is_directory": True}}}
    entry = {"name": "a b%20.jpg", "attributes": {"md5": "x", "mtime": 5}}
    key = "/buckets/b/photos/OK/a b%20.jpg"
    written = {"event_type": "create", "key": key, "message": {"new_entry": entry}}
    removed = {"event_type": "delete", "key": key, "message": {"old_entry": entry}}
    renamed = {
        "event_type": "rename",
        "key": key,
        "message": {"old_entry": entry, "new_entry": entry, "new_parent_path": "/buckets/b/photos/KO"},
    }
    assert parse(json.dumps(folder)) == ()
    assert [(change.key, change.removed) for change in parse(json.dumps(written))] == [("photos/OK/a b%20.jpg", False)]
    assert [change.removed for change in parse(json.dumps(removed))] == [True]
    assert [(change.key, change.removed) for change in parse(json.dumps(renamed))] == [
        ("photos/OK/a b%20.jpg", True),
        ("photos/KO/a b%20.jpg", False),
    ]


@given(st.one_of(st.binary(max_size=60), st.text(max_size=60)))
def test_rubbish_is_refused_and_never_anything_else(message):
    with contextlib.suppress(EventError):
        parse(message)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Records", "s3", "object", "key", "eventName", "body", "source", "detail", "event_type"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_json_of_any_shape_is_read_or_refused(value):
    with contextlib.suppress(EventError):
        assert all(isinstance(change, Change) for change in parse(json.dumps(value)))


def test_what_training_writes_never_starts_training():
    def heard(key, bucket="b"):
        return concerns(Change(bucket, key, removed=False), "b", "mine/")

    assert heard("mine/photos/OK/1.jpg")
    assert heard("mine/photos/photos.csv")
    for own in ("mine/training/lock.json", "mine/registry/metadata/timestamp.json", "mine/photos/.okko/x.jpg"):
        assert not heard(own)
    assert not heard("mine/photos/unlabelled/1.jpg")
    assert not heard("mine/photos/OK/")
    assert not heard("photos/OK/1.jpg")
    assert not heard("mine/photos/OK/1.jpg", "another")
    assert UNLABELLED == layout.UNLABELLED


def test_what_is_told_again_or_too_late_is_no_news():
    latest = Latest()
    first = Change("b", "k", removed=False, etag="1", sequencer="0A")
    later = Change("b", "k", removed=True, sequencer="0A1")
    assert latest.is_news(first)
    assert not latest.is_news(first)
    assert latest.is_news(later)
    assert not latest.is_news(first)
    assert not latest.is_news(later)


def test_without_a_sequencer_anything_different_is_news():
    latest = Latest()
    one, other = (Change("b", "k", removed=False, etag=etag) for etag in "12")
    assert [latest.is_news(each) for each in (one, one, other, other, one)] == [True, False, True, False, True]


def test_memory_of_what_was_told_is_bounded_and_forgetting_only_means_looking_again():
    latest = Latest(most=3)
    changes = [Change("b", str(number), removed=False, etag="1") for number in range(5)]
    assert all(latest.is_news(change) for change in changes)
    assert not latest.is_news(changes[-1])
    assert latest.is_news(changes[0])


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), min_size=1, max_size=12), st.data())
def test_whatever_the_order_and_however_often_the_last_change_of_each_key_is_known_in_the_end(history, data):
    """Each key's newest change is news when it comes first, so a job is started that sees it."""
    changes = [
        Change("b", key, removed=removed, etag="" if removed else str(number), sequencer=f"{number:04X}")
        for number, (key, removed) in enumerate(history)
    ]
    delivered = data.draw(st.permutations([change for change in changes for _ in range(data.draw(st.integers(1, 3)))]))
    latest = Latest()
    news = [change for change in delivered if latest.is_news(change)]
    newest = {change.key: change for change in changes}
    assert {change.key: change for change in news} == newest
    assert len(news) == len(set(news))
