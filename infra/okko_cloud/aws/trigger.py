"""The function that AWS calls with what S3 has said: waits until photos have come to rest, then starts one job.

It runs on AWS Lambda with the standard library and the boto3 that is there; what photos and pauses are is said by
`okko_cloud.events` and `okko_cloud.debounce`. It cannot wait itself, so it sets alarms: one-shot schedules that send a
message into its own queue. An alarm is named by its time, so setting it again changes nothing, and none is ever moved.
https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html#one-time
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from okko_cloud.aws.pending import Pending
from okko_cloud.debounce import Debounce
from okko_cloud.events import EventError, concerns, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

STATE: Final = "training/trigger.json"
ALARM: Final = "okko-alarm"
"""The field by which a message of an alarm is known."""

_TRIES: Final = 20
_SOON_S: Final = 2.0  # an alarm is never set for a moment that may have passed when it is set


@dataclass(frozen=True)
class Services:
    """The clients of boto3 that the trigger needs."""

    s3: Any
    scheduler: Any
    batch: Any


@dataclass(frozen=True)
class Surroundings:
    """What Terraform tells the function.

    Attributes:
        bucket: where photos are, and the trigger's own object.
        queue_arn: of the queue that calls the function.
        alarms: the group of schedules.
        alarm_role: by which schedules may send to the queue.
        job_queue: of AWS Batch.
        job_definition: likewise.
        rule: when photos have come to rest.
        max_jobs: in a month.
    """

    bucket: str
    queue_arn: str
    alarms: str
    alarm_role: str
    job_queue: str
    job_definition: str
    rule: Debounce
    max_jobs: int

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Surroundings:
        """Reads them from the environment."""
        return cls(
            bucket=environment["OKKO_BUCKET"],
            queue_arn=environment["OKKO_QUEUE_ARN"],
            alarms=environment["OKKO_ALARMS"],
            alarm_role=environment["OKKO_ALARM_ROLE"],
            job_queue=environment["OKKO_JOB_QUEUE"],
            job_definition=environment["OKKO_JOB_DEFINITION"],
            rule=Debounce(float(environment["OKKO_QUIET_S"]), float(environment["OKKO_AT_MOST_S"])),
            max_jobs=int(environment["OKKO_MAX_JOBS_PER_MONTH"]),
        )


def handler(event: dict[str, Any], _: object) -> dict[str, Any]:
    """What AWS Lambda calls with a batch of messages; returns those that are to be delivered again.

    Raises:
        Exception: whatever a service says; then all messages are delivered again.
    """
    import boto3

    services = Services(boto3.client("s3"), boto3.client("scheduler"), boto3.client("batch"))
    return handle(event, Surroundings.read(os.environ), services)


def handle(
    event: dict[str, Any], where: Surroundings, services: Services, clock: Callable[[], float] = time.time
) -> dict[str, Any]:
    """Does what the messages ask for; see `handler`.

    Args:
        event: messages of the queue.
        where: what there is.
        services: how it is reached.
        clock: seconds since 1970.
    """
    changes, alarms, failed = 0, 0, []
    for message in event["Records"]:
        try:
            if _is_alarm(message["body"]):
                alarms += 1
            else:
                changes += sum(concerns(change, where.bucket, "") for change in parse(message["body"]))
        except EventError as error:
            # Delivered again, and at last put aside, where a person hears of it.
            print(f"not understood: {error}")
            failed.append({"itemIdentifier": message["messageId"]})
    print(f"{len(event['Records'])} messages: {changes} changes, {alarms} alarms, {len(failed)} not understood")
    if changes or alarms:
        _act(changes, where, services, clock)
    return {"batchItemFailures": failed}


def _act(changes: int, where: Surroundings, services: Services, clock: Callable[[], float]) -> None:
    for _ in range(_TRIES):
        now_s = clock()
        before, tag = _load(where, services)
        pending = before.heard(changes, now_s)
        due_s = pending.due_s(where.rule, where.max_jobs)
        claims = due_s is not None and now_s >= due_s
        if not _save(pending.claim(now_s) if claims else pending, tag, where, services):
            continue  # another call was faster
        if claims:
            _start(pending.waiting.changes, now_s, where, services)
        elif due_s is not None:
            _set_alarm(max(due_s, now_s + _SOON_S), where, services)
        return
    raise _crowded(where)


def _start(changes: int, now_s: float, where: Surroundings, services: Services) -> None:
    job = services.batch.submit_job(
        jobName=f"train-{now_s:.0f}", jobQueue=where.job_queue, jobDefinition=where.job_definition
    )
    print(f"job {job['jobId']} for {changes} changes")
    for _ in range(_TRIES):
        state, tag = _load(where, services)
        if _save(state.started(now_s), tag, where, services):
            return
    raise _crowded(where)


def _crowded(where: Surroundings) -> RuntimeError:
    return RuntimeError(f"s3://{where.bucket}/{STATE} is changed by others all the time; trying again later")


def _load(where: Surroundings, services: Services) -> tuple[Pending, str]:
    from botocore.exceptions import ClientError  # type: ignore[import-untyped]

    try:
        reply = services.s3.get_object(Bucket=where.bucket, Key=STATE)
    except ClientError as error:
        # To whoever may not list a bucket, S3 says of a missing object that it is forbidden. Were it really forbidden,
        # writing it would fail next.
        if error.response["ResponseMetadata"]["HTTPStatusCode"] in {403, 404}:
            return Pending(), ""
        raise
    return Pending.decode(reply["Body"].read()), reply["ETag"]


def _save(state: Pending, tag: str, where: Surroundings, services: Services) -> bool:
    from botocore.exceptions import ClientError

    condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
    try:
        services.s3.put_object(
            Bucket=where.bucket, Key=STATE, Body=state.encode(), ContentType="application/json", **condition
        )
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] in {409, 412}:
            return False
        raise
    return True


def _set_alarm(at_s: float, where: Surroundings, services: Services) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(math.ceil(at_s)))
    try:
        services.scheduler.create_schedule(
            Name=f"look-{at.replace(':', '')}",
            GroupName=where.alarms,
            ScheduleExpression=f"at({at})",
            FlexibleTimeWindow={"Mode": "OFF"},
            ActionAfterCompletion="DELETE",
            Target={"Arn": where.queue_arn, "RoleArn": where.alarm_role, "Input": json.dumps({ALARM: at})},
        )
    except services.scheduler.exceptions.ConflictException:
        return  # it is set already
    print(f"looking again at {at}")


def _is_alarm(body: str) -> bool:
    try:
        message = json.loads(body)
    except ValueError:
        return False
    return isinstance(message, dict) and ALARM in message
