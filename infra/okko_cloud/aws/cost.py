"""What the loop on AWS costs: an estimate of a job and of a month, and the most that a job can cost; a pure core.

Prices are data (`prices.toml`), list prices of one region with a date and a source each. How long training takes comes
from one that was measured: 950 photos of which nothing was known took 81 s on two processors, of which some 30 were
spent on what does not depend on the number of photos, mostly by one processor.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

FIXED_S: Final = 30.0
PROCESSOR_S_PER_PHOTO: Final = 0.1
SLOWER: Final = 2.0
"""A vCPU of Fargate may be one thread of a shared core: it is taken for half as fast as what was measured on."""
START_S: Final = 60.0
"""Fargate bills from when it begins to fetch the image."""

_IMAGE_GB: Final = 0.5  # compressed, as it is stored
_MODEL_GB: Final = 0.015
_LOG_GB_PER_JOB: Final = 0.0001
_TRIGGER_GB: Final = 0.25
_SIGNATURES_PER_JOB: Final = 12  # publish and promote: targets, snapshot and timestamp, twice, and then some
_REQUESTS_PER_JOB: Final = 200  # notes, lock and registry
_MINUTE_S: Final = 60.0
_HOUR_S: Final = 3600.0


@dataclass(frozen=True)
class Price:
    """A list price.

    Attributes:
        usd: for one of `what`, in US dollars.
        what: in words, with the unit.
        source: Amazon's page about it.
        checked: what else names the same price, and of when that is.
    """

    usd: float
    what: str
    source: str
    checked: str


@dataclass(frozen=True)
class Prices:
    """List prices.

    Attributes:
        region: of AWS.
        as_of: year and month.
        by_name: the prices.
    """

    region: str
    as_of: str
    by_name: Mapping[str, Price]

    def __getitem__(self, name: str) -> float:
        return self.by_name[name].usd


@dataclass(frozen=True)
class JobSize:
    """What a training job may take; as in Terraform's variables.

    Attributes:
        vcpus: processors.
        memory_gb: memory.
        minutes: after so many it is killed; each attempt.
        attempts: at most.
        spot: on Fargate Spot.
        arm: on ARM.
    """

    vcpus: int = 4
    memory_gb: int = 8
    minutes: float = 60.0
    attempts: int = 3
    spot: bool = False
    arm: bool = False


@dataclass(frozen=True)
class Use:
    """How the loop is used.

    Attributes:
        photos: in the dataset.
        new_photos: a month.
        photo_mb: of one photo.
        jobs: a month.
        devices: that fetch each new model.
        signing_key: with a KMS key.
    """

    photos: int = 1000
    new_photos: int = 1000
    photo_mb: float = 0.5
    jobs: int = 10
    devices: int = 1
    signing_key: bool = True


@dataclass(frozen=True)
class Item:
    """One line of an estimate: what, and US dollars."""

    what: str
    usd: float


@dataclass(frozen=True)
class Estimate:
    """What it comes to, in US dollars.

    Attributes:
        job_s: how long a job runs, start-up included.
        job: what a job costs.
        job_at_most: what it costs if it is killed at the last moment, each time.
        month: the lines of a month.
        p3: the same photos by hand on SageMaker: so many minutes, and their price.
    """

    job_s: float
    job: float
    job_at_most: float
    month: tuple[Item, ...]
    p3: tuple[Item, ...] = field(default=())

    @property
    def month_usd(self) -> float:
        """What a month costs."""
        return math.fsum(item.usd for item in self.month)


def load_prices() -> Prices:
    """Returns the prices that okko comes with."""
    raw = tomllib.loads(Path(__file__).with_name("prices.toml").read_text(encoding="utf-8"))
    by_name = {name: Price(**value) for name, value in raw.items() if isinstance(value, dict)}
    return Prices(raw["region"], raw["as_of"], by_name)


def job_s(photos: int, size: JobSize) -> float:
    """Returns how long a job on so many photos runs, when it knows none of them yet."""
    return START_S + SLOWER * (FIXED_S + PROCESSOR_S_PER_PHOTO * photos / size.vcpus)


def job_usd(seconds: float, size: JobSize, prices: Prices) -> float:
    """Returns what a job of so many seconds costs; a minute at least."""
    kind = "fargate_arm" if size.arm else "fargate"
    hourly = size.vcpus * prices[f"{kind}_vcpu_hour"] + size.memory_gb * prices[f"{kind}_gb_hour"]
    share = prices["fargate_spot_share"] if size.spot else 1.0
    return (hourly * share + prices["public_address_hour"]) * max(seconds, _MINUTE_S) / _HOUR_S


def job_usd_at_most(size: JobSize, prices: Prices) -> float:
    """Returns what a job costs that is killed at its time limit, at every attempt; on Spot, at the full price."""
    full = JobSize(size.vcpus, size.memory_gb, arm=size.arm)
    return size.attempts * job_usd(START_S + 60 * size.minutes, full, prices)


def jobs_within(usd: float, fixed_usd: float, size: JobSize, prices: Prices) -> int:
    """Returns how many jobs may be started in a month so that it never costs more, even if all go wrong.

    Args:
        usd: the month's limit.
        fixed_usd: what a month costs without jobs.
        size: of a job.
        prices: list prices.
    """
    return max(0, math.floor((usd - fixed_usd) / job_usd_at_most(size, prices)))


def estimate(use: Use, size: JobSize, prices: Prices) -> Estimate:
    """Returns what it comes to."""
    seconds = min(job_s(use.photos, size), START_S + 60 * size.minutes)
    one = job_usd(seconds, size, prices)
    events = use.new_photos
    # At worst, each photo makes a call of the trigger, which reads and writes its notes.
    calls = events + 2 * use.jobs
    trigger = (
        calls * (prices["lambda_call"] + 0.5 * _TRIGGER_GB * prices["lambda_gb_second"] + prices["scheduler_call"])
        + 4 * calls * prices["sqs_request"]
        + calls * (prices["s3_get"] + prices["s3_put"])
    )
    photos = use.photos * use.photo_mb / 1000 * prices["s3_gb_month"] + use.new_photos * prices["s3_put"]
    reading = use.jobs * (use.photos * prices["s3_get"] + _REQUESTS_PER_JOB * prices["s3_put"])
    models = use.jobs * _MODEL_GB * (prices["s3_gb_month"] + use.devices * prices["transfer_gb"])
    kept = _IMAGE_GB * prices["ecr_gb_month"] + use.jobs * _LOG_GB_PER_JOB * prices["log_gb"] + prices["alarm_month"]
    month = [
        Item(f"{use.jobs} training jobs", use.jobs * one),
        Item(f"{use.photos} photos kept, {use.new_photos} uploaded", photos),
        Item("reading photos for training", reading),
        Item(f"models kept, and fetched by {use.devices} devices", models),
        Item("queue, trigger and alarms", trigger),
        Item("the image, logs and the alarm of the dead-letter queue", kept),
    ]
    if use.signing_key:
        signed = prices["kms_key_month"] + use.jobs * _SIGNATURES_PER_JOB * prices["kms_signature"]
        month.append(Item("the key that signs models", signed))
    p3_minute = prices["sagemaker_p3_hour"] / 60
    p3 = (
        Item("6 minutes of training", 6 * p3_minute),
        Item("3 minutes before it, for image and photos, which are billed too", 3 * p3_minute),
        Item("one endpoint of that kind forgotten for a month", 30 * 24 * 60 * p3_minute),
    )
    return Estimate(seconds, one, job_usd_at_most(size, prices), tuple(month), p3)


def fixed_usd(use: Use, prices: Prices) -> float:
    """Returns what a month costs without any job."""
    none = Use(use.photos, use.new_photos, use.photo_mb, 0, use.devices, use.signing_key)
    return estimate(none, JobSize(), prices).month_usd
