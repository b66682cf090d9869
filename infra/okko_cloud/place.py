"""A place in S3 where photos come in and models go out, and what a user has decided about it.

One bucket and prefix hold everything: `photos/LABEL/...` to learn from, `training/` for what jobs tell each other, and
`registry/` with the signed models. Credentials are found as boto3 finds them; none are kept or passed on here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from okko_cloud.events import PHOTOS
from okko_models.damaged import decode_json
from okko_models.decision import Costs
from okko_models.errors import OkkoError
from okko_models.manifest import NAME_PATTERN
from okko_models.registry.s3 import S3Store

if TYPE_CHECKING:
    from okko_models.registry.store import Store

TRAINING: Final = "training/"
REGISTRY: Final = "registry/"
SETTINGS: Final = "training/settings.json"
_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket, what keys in it begin with, and which S3 has it.

    Attributes:
        bucket: its name.
        prefix: empty, or it ends with a slash.
        endpoint_url: another S3 than Amazon's; empty: what boto3 finds in environment and files, or Amazon's.
    """

    bucket: str
    prefix: str = ""
    endpoint_url: str = ""

    @classmethod
    def parse(cls, text: str, endpoint_url: str = "") -> Place:
        """Reads `s3://bucket/prefix`.

        Raises:
            OkkoError: it is none.
        """
        bucket, _, prefix = text.removeprefix("s3://").partition("/")
        if not text.startswith("s3://") or not bucket:
            raise OkkoError(f"{text!r} is no place in S3; expected s3://BUCKET or s3://BUCKET/PREFIX")
        return cls(bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else "", endpoint_url)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def photos(self) -> str:
        """What the keys of photos begin with."""
        return self.prefix + PHOTOS

    def store(self) -> S3Store:
        """Returns the store for what jobs tell each other; its keys begin with `TRAINING`."""
        return S3Store(self.bucket, self.prefix, endpoint_url=self.endpoint_url)

    def registry(self) -> S3Store:
        """Returns the store of the registry."""
        return S3Store(self.bucket, self.prefix + REGISTRY, endpoint_url=self.endpoint_url)

    def client(self, *, connections: int = 16) -> Any:
        """Returns a boto3 client for this place's S3.

        Args:
            connections: requests at a time.

        Raises:
            OkkoError: boto3 is not installed, or the address cannot be used.
        """
        try:
            import boto3
            from botocore.config import Config  # type: ignore[import-untyped]
        except ModuleNotFoundError as error:
            raise OkkoError(
                'S3 needs: pip install "okko[cloud]"  (the Python package boto3 is not installed)'
            ) from error

        config = Config(
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=connections,
            retries={"total_max_attempts": 5, "mode": "standard"},
            # Content-MD5 and the digests in `okko_cloud.bucket` are understood by every S3; newer checksums are not.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        session = boto3.session.Session()
        try:
            return session.client(
                "s3",
                endpoint_url=self.endpoint_url or None,
                region_name=session.region_name or "us-east-1",
                config=config,
            )
        except ValueError as error:
            raise OkkoError(f"--endpoint-url {self.endpoint_url!r}: {error}") from error


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a user has decided; it lies at the place, so that every job there works by it.

    Attributes:
        name: of the model.
        costs: what mistakes cost.
        ok_labels: labels that count as good; empty: those whose name says so.
        group_by: a column of photos/photos.csv; a group stays on one side of every split.
        seed: of everything random.
        trials: of the swarm.
        promotion: `auto`: a model that beats the one in service goes into service; `hand`: a person decides.
        confidence: how sure it must be that a new model is better.
        max_latency_ms: a model that takes longer for one photo is not promoted; None: no such bound.
        max_minutes: a job that takes longer is ended.
        quiet_minutes: a job starts when no photo came for so long.
        at_most_minutes: and at the latest so long after the first one.
    """

    name: str = "model"
    costs: Costs = Costs()
    ok_labels: tuple[str, ...] = ()
    group_by: str | None = None
    seed: int = 0
    trials: int = 30
    promotion: Literal["auto", "hand"] = "auto"
    confidence: float = 0.95
    max_latency_ms: float | None = None
    max_minutes: float = 60.0
    quiet_minutes: float = 2.0
    at_most_minutes: float = 15.0

    def __post_init__(self) -> None:
        import re

        problem = ""
        if not re.fullmatch(NAME_PATTERN, self.name):
            problem = f"name is {self.name!r}; expected 1 to 80 letters, digits, dots, dashes or underscores"
        elif not 0.5 <= self.confidence < 1:
            problem = f"confidence is {self.confidence}; expected 0.5 or more, and less than 1"
        elif not 0 <= self.quiet_minutes <= self.at_most_minutes:
            problem = f"quiet_minutes is {self.quiet_minutes}; expected 0 to at_most_minutes ({self.at_most_minutes})"
        elif not self.max_minutes > 0:
            problem = f"max_minutes is {self.max_minutes}; expected a number above 0"
        elif self.trials < 1:
            problem = f"trials is {self.trials}; expected at least 1"
        if problem:
            raise ValueError(problem)

    @property
    def recipe(self) -> str:
        """Eight digits that change when another model would come out of the same photos."""
        decisive = (self.name, self.costs, self.ok_labels, self.group_by, self.seed, self.trials)
        return hashlib.sha256(msgspec.json.encode(decisive)).hexdigest()[:8]


def load_settings(store: Store) -> Settings:
    """Returns the place's settings; those that nobody has made are the usual ones.

    Raises:
        OkkoError: the file cannot be understood, or the store fails.
    """
    found = store.get(SETTINGS)
    if found is None:
        return Settings()
    try:
        return decode_json(found.data, Settings)
    except msgspec.DecodeError as error:
        raise OkkoError(f"{store}/{SETTINGS}: {error}; okko cloud up writes it") from error


def save_settings(store: Store, settings: Settings) -> None:
    """Writes the place's settings.

    Raises:
        OkkoError: the store fails, or others write the same all the time.
    """
    data = msgspec.json.format(msgspec.json.encode(settings), indent=2)
    for _ in range(_TRIES):
        found = store.get(SETTINGS)
        if found is not None and found.data == data:
            return
        if store.put_new(SETTINGS, data) if found is None else store.put_if(SETTINGS, data, found.tag):
            return
    raise OkkoError(f"{store}/{SETTINGS} is changed by others all the time; try again")
