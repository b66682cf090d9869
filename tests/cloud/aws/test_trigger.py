"""The function that AWS calls, against an S3 in memory and a clock of its own; alarms and jobs are noted."""

import json
import random
import subprocess
import sys
import zipfile
from dataclasses import replace

import boto3
import pytest

from okko_cloud.aws.package import write_trigger
from okko_cloud.aws.pending import CLAIM_S, MONTH_S, Pending
from okko_cloud.aws.trigger import ALARM, STATE, Services, Surroundings, handle
from okko_cloud.debounce import Debounce, Waiting

RULE = Debounce(600, 3600)
WHERE = Surroundings("marbles", "arn:queue", "alarms", "arn:role", "queue", "definition", RULE, max_jobs=3)
BEGIN_S = 1.8e9


class Batch:
    """Takes jobs; fails so many times before."""

    def __init__(self, failures=0):
        self.jobs, self.failures = [], failures

    def submit_job(self, **job):
        if self.failures:
            self.failures -= 1
            raise ConnectionError("no answer")
        self.jobs.append(job)
        return {"jobId": str(len(self.jobs))}


class Scheduler:
    """Keeps alarms by name; refuses a name that is there, as AWS does."""

    class exceptions:  # noqa: N801 (as boto3 has it)
        class ConflictException(Exception):  # noqa: N818
            pass

    def __init__(self):
        self.alarms = {}

    def create_schedule(self, **alarm):
        if alarm["Name"] in self.alarms:
            raise self.exceptions.ConflictException
        self.alarms[alarm["Name"]] = alarm

    def ring(self, now_s):
        """Takes away alarms that are due; returns their messages."""
        import calendar
        import time

        due = [
            (name, alarm)
            for name, alarm in self.alarms.items()
            if calendar.timegm(time.strptime(alarm["ScheduleExpression"], "at(%Y-%m-%dT%H:%M:%S)")) <= now_s
        ]
        for name, _ in due:
            del self.alarms[name]
        return [alarm["Target"]["Input"] for _, alarm in due]


class World:
    """All of AWS that the trigger knows."""

    def __init__(self, where=WHERE):
        self.where, self.now_s = where, BEGIN_S
        self.s3 = boto3.client("s3")
        self.s3.create_bucket(Bucket=where.bucket)
        self.batch, self.scheduler = Batch(), Scheduler()

    def tell(self, *bodies):
        event = {"Records": [{"messageId": str(n), "body": body} for n, body in enumerate(bodies)]}
        return handle(event, self.where, Services(self.s3, self.scheduler, self.batch), lambda: self.now_s)

    def wait(self, seconds):
        """Lets time pass, minute by minute, with all alarms that ring."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s = min(self.now_s + 60, end_s)
            for body in self.scheduler.ring(self.now_s):
                self.tell(body)

    @property
    def state(self):
        return Pending.decode(self.s3.get_object(Bucket=self.where.bucket, Key=STATE)["Body"].read())


def put(key="photos/OK/1.jpg", event="ObjectCreated:Put"):
    record = {"eventName": event, "s3": {"bucket": {"name": "marbles"}, "object": {"key": key, "eTag": "e"}}}
    return json.dumps({"Records": [record]})


@pytest.fixture
def world(moto):
    return World()


def test_photos_of_a_morning_become_one_job_when_they_have_come_to_rest(world):
    for _ in range(50):
        world.tell(put(), put("photos/KO/2.jpg"))
        world.wait(30)
    assert world.batch.jobs == []
    world.wait(700)
    assert len(world.batch.jobs) == 1
    assert world.batch.jobs[0]["jobDefinition"] == "definition"
    world.wait(7200)
    assert len(world.batch.jobs) == 1
    assert world.scheduler.alarms == {}


def test_photos_that_never_rest_are_trained_on_after_an_hour(world):
    for _ in range(130):
        world.tell(put())
        world.wait(60)
    assert 2 <= len(world.batch.jobs) <= 3


def test_told_again_and_again_and_in_any_order_it_is_still_one_job(world):
    lot = random.Random(4)
    events = [put(f"photos/OK/{n}.jpg") for n in range(200)] * 2
    lot.shuffle(events)
    while events:
        world.tell(*(events.pop() for _ in range(min(len(events), lot.randrange(1, 30)))))
        world.wait(lot.random() * 20)
    world.wait(1800)
    assert len(world.batch.jobs) == 1
    for body in [json.dumps({ALARM: "again"})] * 5:
        world.tell(body)
    assert len(world.batch.jobs) == 1


def test_an_alarm_that_comes_too_early_is_set_again(world):
    world.tell(put())
    (body,) = world.scheduler.ring(world.now_s + 601)
    world.tell(body)
    assert world.batch.jobs == []
    world.wait(660)
    assert len(world.batch.jobs) == 1


def test_what_is_no_photo_starts_nothing(world):
    test = json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "marbles"})
    world.tell(
        test, put("registry/metadata/timestamp.json"), put("photos/unlabelled/belt/1.png"), put("photos/.okko/x")
    )
    assert world.scheduler.alarms == {}
    with pytest.raises(world.s3.exceptions.NoSuchKey):
        _ = world.state


def test_a_message_that_cannot_be_understood_is_given_back_and_the_others_are_heard(world):
    said = world.tell(put(), "{", json.dumps({"hello": 1}), json.dumps([1]))
    assert [each["itemIdentifier"] for each in said["batchItemFailures"]] == ["1", "2", "3"]
    assert world.state.waiting.changes == 1


def test_a_job_that_could_not_be_started_is_started_when_the_message_comes_again(world):
    world.tell(put())
    world.now_s += 601
    (body,) = world.scheduler.ring(world.now_s)
    world.batch.failures = 1
    with pytest.raises(ConnectionError):
        world.tell(body)
    assert world.state.claimed.changes == 1
    world.tell(body)
    assert world.batch.jobs == [], "the call that failed may still be at it"
    world.now_s += CLAIM_S
    world.tell(body)
    assert len(world.batch.jobs) == 1
    assert world.state.claimed.changes == world.state.waiting.changes == 0


def test_of_two_calls_at_once_one_starts_the_job(world):
    world.tell(put())
    world.now_s += 601
    (body,) = world.scheduler.ring(world.now_s)
    inner, first = world.s3.put_object, [True]

    def put_object(**arguments):
        if arguments["Key"] == STATE and first:
            first.clear()
            world.tell(body)  # another call comes between reading and writing
        return inner(**arguments)

    world.s3.put_object = put_object
    world.tell(body)
    assert len(world.batch.jobs) == 1


def test_photos_that_come_while_a_job_is_started_wait_for_the_next(world):
    world.tell(put())
    world.now_s += 601
    (body,) = world.scheduler.ring(world.now_s)
    submit = world.batch.submit_job

    def submit_job(**job):
        world.tell(put("photos/OK/late.jpg"))
        return submit(**job)

    world.batch.submit_job = submit_job
    world.tell(body)
    world.batch.submit_job = submit
    assert (len(world.batch.jobs), world.state.waiting.changes) == (1, 1)
    world.wait(700)
    assert len(world.batch.jobs) == 2


def test_the_month_has_no_more_jobs_than_are_paid_for(world):
    for _ in range(6):
        world.tell(put())
        world.wait(1200)
    assert len(world.batch.jobs) == 3
    world.wait(20 * 86400)
    assert len(world.batch.jobs) == 3
    assert world.state.waiting.changes > 0, "no photo is forgotten"
    world.wait(11 * 86400)
    assert len(world.batch.jobs) == 4


def test_a_month_of_starts_is_remembered_and_no_more():
    state = Pending(starts_s=(1.0, 2.0, 3.0 + MONTH_S))
    assert state.heard(0, 2.5 + MONTH_S).starts_s == (3.0 + MONTH_S,)


def test_a_claim_that_was_lost_waits_again_from_when_its_photos_came():
    claimed = Pending(Waiting(2, 100, 200)).claim(1000)
    assert claimed.heard(0, 1000 + CLAIM_S - 1).waiting.changes == 0
    again = replace(claimed, waiting=Waiting(1, 1010, 1010)).heard(0, 1000 + CLAIM_S)
    assert (again.waiting, again.claimed.changes) == (Waiting(3, 100, 1010), 0)


@pytest.mark.parametrize("data", [b"[]", b"{}", b'{"waiting": 1}', b'{"starts_s": [], "waiting": {"x": 1}}'])
def test_a_state_that_is_none_is_refused(data):
    with pytest.raises(ValueError, match="no state of the trigger"):
        Pending.decode(data)


def test_the_state_comes_back_as_it_was_written():
    state = Pending(Waiting(2, 1.5, 2.5), Waiting(1, 0.5, 0.5), 3.0, (1.0, 2.0))
    assert Pending.decode(state.encode()) == state


def test_the_packed_trigger_needs_nothing_but_the_standard_library_and_is_the_same_each_time(tmp_path):
    write_trigger(tmp_path / "one.zip")
    write_trigger(tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert (tmp_path / "one.zip").stat().st_size < 20_000
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        archive.extractall(tmp_path / "code")
    # -I and -S: neither this checkout nor any installed package can be imported.
    program = f"import sys; sys.path.insert(0, {str(tmp_path / 'code')!r}); from okko_cloud.aws.trigger import handler"
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)
