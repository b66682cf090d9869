"""A registry in a bucket: Amazon's S3, or any store that speaks it with conditional writes.

If-None-Match and If-Match are what makes publishing safe; a store that ignores them is found out when a registry is
made there. https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html. boto3 is imported when the
first request goes out.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
from typing import TYPE_CHECKING, Any, Final

from okko_models.registry.errors import MissingError, OfflineError, RegistryError
from okko_models.registry.store import CHUNK_BYTES, Stored, check_key

if TYPE_CHECKING:
    from collections.abc import Iterator

_TYPES: Final = {"json": "application/json", "html": "text/html", "png": "image/png"}
_CONFLICT_TRIES: Final = 4


class S3Store:
    """A registry in a bucket.

    Args:
        bucket: its name.
        prefix: what every key begins with: empty, or it ends with a slash.
        endpoint_url: another S3 than Amazon's; empty: Amazon's.
        client: a boto3 client to use; None: one as boto3 finds credentials (environment, files, the machine's role).

    Raises:
        RegistryError: boto3 is not installed.
    """

    def __init__(self, bucket: str, prefix: str, *, endpoint_url: str = "", client: Any = None) -> None:
        if importlib.util.find_spec("boto3") is None:
            raise RegistryError('S3 needs: pip install "okko[cloud]"  (the Python package boto3 is not installed)')
        self.bucket, self.prefix, self._endpoint_url, self._client = bucket, prefix, endpoint_url, client

    @classmethod
    def parse(cls, location: str, *, endpoint_url: str = "") -> S3Store:
        """Reads `s3://bucket/prefix`.

        Raises:
            RegistryError: it is none.
        """
        bucket, _, prefix = location.removeprefix("s3://").partition("/")
        if not bucket:
            raise RegistryError(f"{location!r} names no bucket; expected s3://BUCKET or s3://BUCKET/PREFIX")
        return cls(bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else "", endpoint_url=endpoint_url)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def get(self, key: str) -> Stored | None:
        """Returns a file, or None."""
        reply = self._try("get_object", key)
        if reply is None:
            return None
        try:
            return Stored(reply["Body"].read(), reply["ETag"])
        except Exception as error:  # urllib3's and botocore's, which share no base class
            raise OfflineError(f"{self}/{key}: {error}") from error

    def read(self, key: str, start: int) -> Iterator[bytes]:
        """Yields a file from byte `start` on."""
        # To whoever may not list a bucket, S3 says of a missing file that it is forbidden.
        reply = self._try("get_object", key, missing=(403, 404), **({"Range": f"bytes={start}-"} if start else {}))
        if reply is None:
            raise MissingError(f"{self} has no {key}, or it may not be read with these credentials")
        try:
            yield from reply["Body"].iter_chunks(CHUNK_BYTES)
        except Exception as error:  # urllib3's and botocore's, which share no base class
            raise OfflineError(f"{self}/{key}: {error}") from error

    def put_new(self, key: str, data: bytes) -> bool:
        """Writes a file unless there is one."""
        return self._put(key, data, IfNoneMatch="*")

    def put_if(self, key: str, data: bytes, tag: str) -> bool:
        """Replaces a file if its tag is still `tag`."""
        return self._put(key, data, IfMatch=tag)

    def list(self, prefix: str) -> list[str]:
        """Returns the names that begin with `prefix`, sorted."""
        names: list[str] = []
        following: dict[str, str] = {}
        while True:
            reply = self._call("list_objects_v2", Prefix=self.prefix + prefix, **following)
            names += [entry["Key"].removeprefix(self.prefix) for entry in reply.get("Contents", [])]
            if not reply.get("IsTruncated"):
                return sorted(names)
            following = {"ContinuationToken": reply["NextContinuationToken"]}

    def delete(self, key: str) -> None:
        """Removes a file, if it is there."""
        self._call("delete_object", Key=self.prefix + check_key(key))

    def _put(self, key: str, data: bytes, **condition: str) -> bool:
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]

        digest = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        kind = _TYPES.get(key.rpartition(".")[2], "application/octet-stream")
        for _ in range(_CONFLICT_TRIES):
            try:
                self._call(
                    "put_object",
                    Key=self.prefix + check_key(key),
                    Body=data,
                    ContentType=kind,
                    ContentMD5=digest,
                    **condition,
                )
            except RegistryError as error:
                cause = error.__cause__
                status = _status(cause) if isinstance(cause, ClientError) else 0
                # 409: two such writes met in the store and none was done. 404: nothing there to replace.
                if status == 409:
                    continue
                if status in {412, 404}:
                    return False
                raise
            return True
        raise OfflineError(f"{self}/{key}: others write the same file all the time; try again")

    def _try(self, operation: str, key: str, *, missing: tuple[int, ...] = (404,), **arguments: Any) -> Any:
        from botocore.exceptions import ClientError

        try:
            return self._call(operation, Key=self.prefix + check_key(key), **arguments)
        except RegistryError as error:
            if isinstance(error.__cause__, ClientError) and _status(error.__cause__) in missing:
                return None
            raise

    def _call(self, operation: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        where = f"{self}: {arguments.get('Key', '')}"
        try:
            if self._client is None:
                self._client = self._connect()
            return getattr(self._client, operation)(Bucket=self.bucket, **arguments)
        except ClientError as error:
            kind = OfflineError if _status(error) >= 500 else RegistryError
            raise kind(f"{where}: {error}") from error
        except (BotoCoreError, OSError, ValueError) as error:
            self._client = None
            raise OfflineError(f"{where}: {error}") from error

    def _connect(self) -> Any:
        import boto3
        from botocore.config import Config  # type: ignore[import-untyped]

        session = boto3.session.Session()
        return session.client(
            "s3",
            endpoint_url=self._endpoint_url or None,
            region_name=session.region_name or "us-east-1",
            config=Config(
                connect_timeout=10,
                read_timeout=30,
                retries={"total_max_attempts": 3},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )


def _status(error: Any) -> int:
    """The HTTP status; 0 for a bucket that is not there, which is no answer about a file."""
    if error.response.get("Error", {}).get("Code") == "NoSuchBucket":
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
