"""Puts objects into S3 that nobody has put there before; the only module that talks to S3.

boto3 is imported when the first object goes out: it takes a while and some memory, and most devices need it only now
and then. Credentials are found as boto3 finds them (environment, files, the machine's role); okko has none of its own.
A conditional write (If-None-Match: *) makes each object exactly one, however often it is tried
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html).
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from okko_models.errors import OkkoError

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
_SCHEME = "s3://"


class UploadError(OkkoError):
    """Something could not be uploaded now; later it may."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where in S3.

    Attributes:
        bucket: the bucket's name.
        prefix: what every key begins with; ends with a slash, or is empty.
    """

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, text: str) -> Target:
        """Reads `s3://bucket/prefix`.

        Raises:
            OkkoError: it is none.
        """
        bucket, _, prefix = text.removeprefix(_SCHEME).partition("/")
        if not text.startswith(_SCHEME) or not bucket:
            raise OkkoError(f"outbox.bucket is {text!r}; expected s3://BUCKET or s3://BUCKET/PREFIX")
        return cls(bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else "")

    def __str__(self) -> str:
        return f"{_SCHEME}{self.bucket}/{self.prefix}"


class S3:
    """A bucket, and how to reach it.

    Args:
        target: the bucket and what keys begin with.
        endpoint_url: another S3 than Amazon's; empty: Amazon's.
        connect_timeout_s: how long to wait for a connection.
        read_timeout_s: how long to wait for an answer, or for a part of the object to go out.

    Raises:
        OkkoError: boto3 is not installed.
    """

    def __init__(
        self,
        target: Target,
        *,
        endpoint_url: str = "",
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        if importlib.util.find_spec("boto3") is None:
            raise OkkoError('uploading needs: pip install "okko[cloud]"  (the Python package boto3 is not installed)')
        self.target = target
        self._endpoint_url = endpoint_url or None
        self._timeouts = {"connect_timeout": connect_timeout_s, "read_timeout": read_timeout_s}
        self._client: Any = None

    def put_new(self, name: str, data: bytes, content_type: str) -> bool:
        """Writes an object unless it is there; returns whether it was written.

        Args:
            name: the key, without what all keys begin with.
            data: the content.
            content_type: its MIME type.

        Raises:
            UploadError: no network, no permission, no such bucket, or whatever else S3 says.
        """
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

        key = self.target.prefix + name
        try:
            if self._client is None:
                self._client = self._connect()
            self._client.put_object(
                Bucket=self.target.bucket,
                Key=key,
                Body=data,
                ContentType=content_type,
                ContentMD5=base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode(),
                IfNoneMatch="*",
            )
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 412:
                return False
            self._client = None
            raise UploadError(f"s3://{self.target.bucket}/{key}: {error}") from error
        except (BotoCoreError, OSError, ValueError) as error:
            # A client remembers that it found no credentials, so the next try gets a new one.
            self._client = None
            raise UploadError(f"s3://{self.target.bucket}/{key}: {error}") from error
        return True

    def _connect(self) -> Any:
        import boto3
        from botocore.config import Config  # type: ignore[import-untyped]

        config = Config(
            **self._timeouts,
            # Trying again is the uploader's business, which knows patience.
            retries={"total_max_attempts": 1},
            # The digest above is checked by every S3; newer checksums are not.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        session = boto3.session.Session()
        return session.client(
            "s3", endpoint_url=self._endpoint_url, region_name=session.region_name or "us-east-1", config=config
        )
