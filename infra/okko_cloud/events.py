"""What S3 says has happened, read from any of the forms in which it arrives; a pure core, standard library only.

Bucket notifications (S3 to SQS, bare or inside SNS), EventBridge events, batches of SQS messages as a Lambda function
gets them, and the webhook of SeaweedFS all become `Change`s. S3 delivers at least once and in any order, so a change is
only a hint that it is time to look: what is in the bucket is what counts.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus

if TYPE_CHECKING:
    from collections.abc import Iterator

PHOTOS: Final = "photos/"
"""Below a place's prefix: the photos, in one folder a label."""

UNLABELLED: Final = "unlabelled"
"""What `okko_models.layout` calls so, too; this module goes to Lambda without the rest of okko."""

_DEEPEST: Final = 4  # a Lambda batch of SQS messages of an SNS message of a notification
_WEED_ROOT: Final = "/buckets/"


class EventError(ValueError):
    """A message that is none of the known forms."""


@dataclass(frozen=True, slots=True)
class Change:
    """One object that was written or removed.

    Attributes:
        bucket: where.
        key: of the object, as it is in the bucket.
        removed: whether it is gone; else it is new, or new again.
        etag: of the content, "" where the message has none.
        version: the object's version, "" in a bucket without versions.
        sequencer: orders the changes of one key, hexadecimal; "" where the message has none.
    """

    bucket: str
    key: str
    removed: bool
    etag: str = ""
    version: str = ""
    sequencer: str = ""


def parse(message: str | bytes) -> tuple[Change, ...]:
    """Reads one message; what is no change of an object (a test event, a tag, a restore) gives none.

    Raises:
        EventError: the message is none of the known forms.
    """
    try:
        return tuple(_read(json.loads(message), _DEEPEST))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EventError(f"no event of S3: {type(error).__name__}: {error}; it begins {message[:80]!r}") from error


def concerns(change: Change, bucket: str, prefix: str) -> bool:
    """Says whether a change may be one of the photos to learn from; what training itself writes never is.

    Photos without a label, and what labelling keeps for itself in names that begin with a dot, are none either.

    Args:
        change: what has happened.
        bucket: the place's bucket.
        prefix: what the place's keys begin with; empty, or it ends with a slash.
    """
    photos = prefix + PHOTOS
    if change.bucket != bucket or not change.key.startswith(photos):
        return False
    parts = change.key.removeprefix(photos).split("/")
    return bool(parts[-1]) and parts[0] != UNLABELLED and not any(part.startswith(".") for part in parts)


class Latest:
    """Remembers the newest change of each key, to tell what is news from what is told again.

    In doubt a change is news: looking once too often costs a listing, looking once too seldom a photo.

    Args:
        most: so many keys are remembered; the oldest are forgotten first.
    """

    def __init__(self, most: int = 100_000) -> None:
        self._most = most
        self._known: dict[tuple[str, str], Change] = {}

    def is_news(self, change: Change) -> bool:
        """Takes note of a change; returns whether it was unknown, and not older than what is known."""
        place = (change.bucket, change.key)
        known = self._known.pop(place, None)
        news = known is None or _is_after(change, known)
        self._known[place] = change if news or known is None else known
        if len(self._known) > self._most:
            del self._known[next(iter(self._known))]
        return news


def _is_after(change: Change, known: Change) -> bool:
    if change.sequencer and known.sequencer:
        # As S3 documents it: the shorter one is padded with zeros on the right.
        width = max(len(change.sequencer), len(known.sequencer))
        return change.sequencer.upper().ljust(width, "0") > known.sequencer.upper().ljust(width, "0")
    return change != known


def _read(message: Any, depth: int) -> Iterator[Change]:
    if depth == 0:
        raise EventError("messages inside messages inside messages")
    if "Records" in message:
        for record in message["Records"]:
            if "s3" in record:
                yield from _record(record)
            else:
                inner = record["body"] if "body" in record else record["Sns"]["Message"]
                yield from _read(json.loads(inner), depth - 1)
    elif message.get("Event") == "s3:TestEvent":
        return
    elif message.get("source") == "aws.s3":
        yield from _bridged(message)
    elif message.get("Type") == "Notification":
        yield from _read(json.loads(message["Message"]), depth - 1)
    elif "event_type" in message:
        yield from _weed(message)
    else:
        raise EventError(f"has the fields {', '.join(list(message)[:8])}")


def _record(record: dict[str, Any]) -> Iterator[Change]:
    # MinIO and others begin the name with s3:, Amazon does not.
    name = record["eventName"].removeprefix("s3:")
    kind = name.partition(":")[0]
    if kind not in {"ObjectCreated", "ObjectRemoved", "LifecycleExpiration"}:
        return
    found = record["s3"]["object"]
    yield Change(
        bucket=record["s3"]["bucket"]["name"],
        key=unquote_plus(found["key"]),
        removed=kind != "ObjectCreated",
        etag=_text(found, "eTag").strip('"'),
        version=_text(found, "versionId"),
        sequencer=_text(found, "sequencer"),
    )


def _bridged(event: dict[str, Any]) -> Iterator[Change]:
    kind = event["detail-type"]
    if kind not in {"Object Created", "Object Deleted"}:
        return
    found = event["detail"]["object"]
    # Keys come here as they are; only bucket notifications quote them.
    yield Change(
        bucket=event["detail"]["bucket"]["name"],
        key=_string(found["key"]),
        removed=kind == "Object Deleted",
        etag=_text(found, "etag").strip('"'),
        version=_text(found, "version-id"),
        sequencer=_text(found, "sequencer"),
    )


def _weed(event: dict[str, Any]) -> Iterator[Change]:
    """SeaweedFS tells of files below /buckets, and of folders, which are no objects."""
    message = event["message"]
    old, new = message.get("old_entry"), message.get("new_entry")
    if (new or old or {}).get("is_directory"):
        return
    path = _string(event["key"])
    if event["event_type"] == "rename" and new:
        yield _weed_change(path, old, removed=True)
        path = f"{message['new_parent_path']}/{new['name']}"
    yield _weed_change(path, new, removed=event["event_type"] == "delete")


def _weed_change(path: str, entry: dict[str, Any] | None, *, removed: bool) -> Change:
    if not path.startswith(_WEED_ROOT):
        raise EventError(f"{path} is in no bucket")
    bucket, _, key = path.removeprefix(_WEED_ROOT).partition("/")
    attributes = (entry or {}).get("attributes", {})
    content = f"{attributes.get('md5', '')}-{attributes.get('mtime', '')}-{attributes.get('mtime_ns', '')}"
    return Change(bucket, key, removed, etag="" if removed else content)


def _text(found: dict[str, Any], name: str) -> str:
    return _string(found.get(name) or "")


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise EventError(f"{value!r} is no text")
    return value
