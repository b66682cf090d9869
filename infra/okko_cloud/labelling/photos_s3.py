"""A dataset's photos in a bucket: listed, read, and moved so that no photo is ever lost or overwritten.

A move writes the photo to its new key on condition that there is none (If-None-Match: *), and only then deletes the old
key, if that has not been written anew meanwhile. A bucket with versioning keeps even what is deleted.
"""

from __future__ import annotations

import base64
import hashlib
import mimetypes
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from okko_cloud.labelling.layout import with_digest
from okko_cloud.labelling.photos import LabellingError, Listed
from okko_models.registry.errors import OfflineError, RegistryError
from okko_models.registry.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONFLICT_TRIES: Final = 4


class S3Photos(S3Store):
    """A dataset in a bucket; see `S3Store` for the arguments."""

    def list_all(self) -> list[Listed]:
        """Returns every object of which no part of the name begins with a dot."""
        return sorted(self._entries(), key=lambda file: file.key)

    def _entries(self) -> Iterator[Listed]:
        following: dict[str, str] = {}
        while True:
            reply = self._call("list_objects_v2", Prefix=self.prefix, **following)
            for entry in reply.get("Contents", []):
                key = entry["Key"].removeprefix(self.prefix)
                if key and not key.endswith("/") and not any(part.startswith(".") for part in key.split("/")):
                    yield Listed(key, entry["Size"])
            if not reply.get("IsTruncated"):
                return
            following = {"ContinuationToken": reply["NextContinuationToken"]}

    def load(self, key: str) -> bytes | None:
        """Returns an object; None if there is none."""
        found = self._object(key)
        return found[0] if found else None

    def move(self, key: str, to_key: str, data: bytes) -> str:
        """Moves a photo, whose content is `data`, without overwriting another."""
        source = self._object(key)
        if source is None or source[0] != data:
            raise LabellingError(f"{self}/{key} was changed or moved meanwhile; look at it again")
        for wanted in (to_key, with_digest(to_key, hashlib.sha256(data).hexdigest())):
            if wanted == key:
                return wanted
            if self._write_new(wanted, data) or self.load(wanted) == data:
                self._delete_if(key, source[1])
                return wanted
        raise LabellingError(f"{self}/{key}: other photos lie at {to_key} and beside it; move them away")

    def _object(self, key: str) -> tuple[bytes, str] | None:
        """Content and tag of an object."""
        try:
            reply = self._call("get_object", Key=self.prefix + key)
            return reply["Body"].read(), reply["ETag"]
        except RegistryError as error:
            if _status(error) == HTTPStatus.NOT_FOUND:
                return None
            raise
        except Exception as error:  # urllib3's and botocore's, which share no base class
            raise OfflineError(f"{self}/{key}: {error}") from error

    def _write_new(self, key: str, data: bytes) -> bool:
        """Writes an object unless there is one; returns whether it was written."""
        digest = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        kind = mimetypes.guess_type(key)[0] or "application/octet-stream"
        for _ in range(_CONFLICT_TRIES):
            try:
                self._call(
                    "put_object",
                    Key=self.prefix + key,
                    Body=data,
                    ContentType=kind,
                    ContentMD5=digest,
                    IfNoneMatch="*",
                )
            except RegistryError as error:
                # Conflict: two such writes met in the store and none was done.
                if _status(error) == HTTPStatus.CONFLICT:
                    continue
                if _status(error) == HTTPStatus.PRECONDITION_FAILED:
                    return False
                raise
            return True
        raise OfflineError(f"{self}/{key}: others write the same photo all the time; try again")

    def _delete_if(self, key: str, tag: str) -> None:
        """Deletes an object that has not changed since it was read."""
        try:
            now = self._call("head_object", Key=self.prefix + key)["ETag"]
        except RegistryError as error:
            if _status(error) == HTTPStatus.NOT_FOUND:
                return
            raise
        if now == tag:
            self._call("delete_object", Key=self.prefix + key)


def _status(error: RegistryError) -> int:
    reply: Any = getattr(error.__cause__, "response", None) or {}
    # A bucket that is not there is no answer about an object.
    if reply.get("Error", {}).get("Code") == "NoSuchBucket":
        return 0
    return int(reply.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
