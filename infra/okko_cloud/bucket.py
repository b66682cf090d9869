"""Photos in a bucket: listed, fetched and put there, in parallel, resumable, with digests compared in both directions.

What was fetched is kept in a cache by its content, so that a job fetches only what is new. Nothing here knows of
training; `okko_cloud.snapshot` makes a dataset of what was fetched.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol

from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from okko_cloud.place import Place

CONNECTIONS: Final = 16
_CHUNK_BYTES: Final = 1 << 18
_SHA256: Final = "okko-sha256"  # kept with the object, so that whoever fetches it can compare
_FETCH_TRIES: Final = 3
_MD5_DIGITS: Final = 32


class BucketError(OkkoError):
    """The bucket cannot be read or written."""


class UnreachableError(BucketError):
    """The bucket's S3 does not answer, or fails, now; later it may."""


class ChangedError(BucketError):
    """An object is not there any more as it was listed; list again."""


@dataclass(frozen=True, slots=True, order=True)
class Listed:
    """An object as it was listed.

    Attributes:
        key: its name, below what all photos' keys begin with.
        etag: changes with the content; without quotes.
        size: in bytes.
    """

    key: str
    etag: str
    size: int


class Photos(Protocol):
    """A folder of photos somewhere; `BucketPhotos` is one."""

    def list(self) -> list[Listed]:
        """Returns all objects, sorted by key."""

    def download(self, listed: Listed, path: Path) -> str:
        """Brings an object's content to `path`, going on where an earlier try ended; returns its SHA-256.

        Raises:
            ChangedError: it is gone or another one by now.
            BucketError: it cannot be read, or came damaged.
        """


class BucketPhotos:
    """The photos of a place, or of any other prefix in its bucket.

    Args:
        place: where.
        client: a boto3 client; made when omitted.
        prefix: what keys begin with: empty, or it ends with a slash; the place's photos when omitted.
    """

    def __init__(self, place: Place, client: Any = None, *, prefix: str | None = None) -> None:
        self.place = place
        self._client = client or place.client(connections=CONNECTIONS)
        self._prefix = place.photos if prefix is None else prefix

    def __str__(self) -> str:
        return f"s3://{self.place.bucket}/{self._prefix}"

    def list(self, beginning: str = "") -> list[Listed]:
        """Returns all objects, sorted by key; folders that some tools make as empty objects are none.

        Args:
            beginning: only those whose keys begin so.
        """
        found: list[Listed] = []
        with _readable(str(self)):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.place.bucket, Prefix=self._prefix + beginning):
                for entry in page.get("Contents", []):
                    key = entry["Key"].removeprefix(self._prefix)
                    if key and not key.endswith("/"):
                        found.append(Listed(key, entry["ETag"].strip('"'), entry["Size"]))
        return sorted(found)

    def download(self, listed: Listed, path: Path) -> str:
        """Brings an object to `path`; see `Photos`."""
        for _ in range(_FETCH_TRIES):
            there = path.stat().st_size if path.is_file() else 0
            if there > listed.size:
                path.unlink()
                there = 0
            expected, etag_is_md5 = self._append(listed, path, there)
            md5, sha256 = _digests(path)
            right = expected == sha256 if expected else not etag_is_md5 or listed.etag == md5
            if path.stat().st_size == listed.size and right:
                return sha256
            path.unlink()
        raise BucketError(f"{self}{listed.key}: what arrives is not what was stored, {_FETCH_TRIES} times; look at it")

    def _append(self, listed: Listed, path: Path, start: int) -> tuple[str, bool]:
        """Fetches the rest of an object; returns its uploader's SHA-256 or "", and whether its ETag is an MD5."""
        reply, is_md5 = self._get(listed, start)
        with _readable(f"{self}{listed.key}"), path.open("ab" if 0 < start < listed.size else "wb") as file:
            for chunk in reply["Body"].iter_chunks(_CHUNK_BYTES):
                file.write(chunk)
        return str(reply.get("Metadata", {}).get(_SHA256, "")), is_md5

    def read(self, listed: Listed) -> bytes:
        """Returns an object's content, compared with its digest; it goes on where the connection was lost.

        Raises:
            ChangedError: it is gone or another one by now.
            BucketError: it cannot be read, or came damaged.
        """
        data, lost = b"", None
        for _ in range(_FETCH_TRIES):
            try:
                reply, is_md5 = self._get(listed, len(data))
                with _readable(f"{self}{listed.key}"):
                    for chunk in reply["Body"].iter_chunks(_CHUNK_BYTES):
                        data += chunk
            except ChangedError:
                raise
            except BucketError as error:
                lost = error
                continue
            expected = str(reply.get("Metadata", {}).get(_SHA256, ""))
            sha256, md5 = hashlib.sha256(data).hexdigest(), hashlib.md5(data, usedforsecurity=False).hexdigest()
            right = expected == sha256 if expected else not is_md5 or listed.etag == md5
            if len(data) == listed.size and right:
                return data
            data, lost = b"", None
        raise lost or BucketError(
            f"{self}{listed.key}: what arrives is not what was stored, {_FETCH_TRIES} times; look at it"
        )

    def _get(self, listed: Listed, start: int) -> tuple[Any, bool]:
        """S3's reply with the content from byte `start` on, and whether the ETag is an MD5."""
        part = {"Range": f"bytes={start}-"} if 0 < start < listed.size else {}
        with _readable(f"{self}{listed.key}"):
            reply = self._client.get_object(
                Bucket=self.place.bucket, Key=self._prefix + listed.key, IfMatch=f'"{listed.etag}"', **part
            )
        # It is, unless the object came in parts, or is encrypted with a key of KMS or of the user.
        plain = reply.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in reply
        return reply, plain and len(listed.etag) == _MD5_DIGITS

    def upload(self, files: Sequence[tuple[str, Path]], on_photo: Callable[[], None] = lambda: None) -> int:
        """Puts files there that are not there yet, with the same content; returns how many were.

        Args:
            files: key below the photos' prefix, and the file.
            on_photo: called once for each file.

        Raises:
            BucketError: the bucket cannot be written.
        """
        there = {listed.key: listed for listed in self.list()}

        def put(key: str, path: Path) -> bool:
            data = path.read_bytes()
            md5 = hashlib.md5(data, usedforsecurity=False)
            known = there.get(key)
            if known is not None and known.etag == md5.hexdigest() and known.size == len(data):
                on_photo()
                return False
            with _readable(f"{self}{key}"):
                self._client.put_object(
                    Bucket=self.place.bucket,
                    Key=self._prefix + key,
                    Body=data,
                    ContentMD5=base64.b64encode(md5.digest()).decode(),
                    Metadata={_SHA256: hashlib.sha256(data).hexdigest()},
                )
            on_photo()
            return True

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return sum(pool.map(put, *zip(*files, strict=True))) if files else 0


class PhotoCache:
    """Photos by their content on this machine's disk, and which object had which content.

    Args:
        folder: where; made if it is not there. It may be deleted at any time, or used by several processes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._turn = threading.Lock()
        self._index = sqlite3.connect(folder / "index.sqlite", timeout=30, check_same_thread=False)
        # What the power takes with it is fetched again, and what it garbles is noticed by its digest: no need to wait.
        self._index.execute("PRAGMA journal_mode=WAL")
        self._index.execute("PRAGMA synchronous=OFF")
        self._index.execute(
            "CREATE TABLE IF NOT EXISTS objects (place TEXT, key TEXT, etag TEXT, size INTEGER, sha256 TEXT,"
            " PRIMARY KEY (place, key, etag, size))"
        )

    def close(self) -> None:
        """Lets go of the index."""
        self._index.close()

    def path(self, sha256: str) -> Path:
        """Returns where the photo with this digest is, or would be."""
        return self._folder / sha256[:2] / sha256

    def fetch(self, photos: Photos, wanted: Sequence[Listed], on_photo: Callable[[], None] = lambda: None) -> list[str]:
        """Brings photos here, those that are not here yet; returns the SHA-256 of each one.

        Raises:
            ChangedError: one of them is not there any more as it was listed.
            OkkoError: they cannot be read, or not be stored here.
        """
        place = str(photos)
        known: dict[tuple[str, str, int], str] = {
            (key, etag, size): sha256
            for key, etag, size, sha256 in self._index.execute(
                "SELECT key, etag, size, sha256 FROM objects WHERE place = ?", (place,)
            )
        }

        def one(listed: Listed) -> str:
            sha256 = known.get((listed.key, listed.etag, listed.size), "")
            if not sha256 or not _has_size(self.path(sha256), listed.size):
                sha256 = self._bring(photos, place, listed)
            on_photo()
            return sha256

        try:
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                return list(pool.map(one, wanted))
        except OSError as error:
            raise BucketError(
                f"{self._folder} cannot be written ({error.strerror or error}); make room there"
            ) from error

    def forget(self, sha256: str) -> None:
        """Removes a photo that was damaged here."""
        self.path(sha256).unlink(missing_ok=True)

    def _bring(self, photos: Photos, place: str, listed: Listed) -> str:
        name = hashlib.sha256(f"{place}\n{listed.key}\n{listed.etag}\n{listed.size}".encode()).hexdigest()
        # Named by what it will be, so that the next try goes on; and by the process, so that no two write one file.
        partial = self._folder / f".partial-{os.getpid()}-{name}"
        for left in self._folder.glob(f".partial-*-{name}"):
            if left != partial and not is_running(left.name.split("-")[1]):
                left.replace(partial)
        sha256 = photos.download(listed, partial)
        self.path(sha256).parent.mkdir(exist_ok=True)
        partial.replace(self.path(sha256))
        with self._turn, self._index:
            row = (place, listed.key, listed.etag, listed.size, sha256)
            self._index.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)", row)
        return sha256


def is_running(process: str) -> bool:
    """Says whether a process of this number runs on this machine."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return True


def files_below(folder: Path) -> Iterable[tuple[str, Path]]:
    """Yields the files in a folder that has label folders: key and path; names that begin with a dot are left out."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            yield name.as_posix(), path


def _digests(path: Path) -> tuple[str, str]:
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            md5.update(chunk)
            sha256.update(chunk)
    return md5.hexdigest(), sha256.hexdigest()


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    """What boto3 raises, in one sentence."""
    import botocore.exceptions as raised  # type: ignore[import-untyped]
    from urllib3.exceptions import HTTPError

    try:
        yield
    except raised.ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        missing = error.response.get("Error", {}).get("Code") == "NoSuchBucket"
        kind = ChangedError if status in {404, 412, 416} and not missing else BucketError
        kind = UnreachableError if status >= HTTPStatus.INTERNAL_SERVER_ERROR else kind
        raise kind(f"{where}: {error}") from error
    except (raised.ConnectionError, raised.HTTPClientError, HTTPError) as error:
        raise UnreachableError(f"{where}: {error}") from error
    except raised.BotoCoreError as error:
        raise BucketError(f"{where}: {error}") from error
