"""The files that a user applies, applied: by okko's own command, to an emulated AWS that runs functions for real.

The emulator accepts Batch jobs and does not run them, so the test takes the submitted job's definition from it, and
runs what the container would run, with the container's environment, as a process. It enforces no policies either;
those are judged by an evaluator, against what the programs really asked for.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from okko_cloud.aws.terraform import CHOSEN, source
from okko_cloud.aws.trigger import STATE
from tests.cloud.aws.applied import Cloud
from tests.cloud.aws.policies import allowed, listed
from tests.cloud.aws.recorder import Recorder

REPOSITORY = Path(__file__).parents[3]
OWN = {"project": "okko", "managed-by": "okko"}
TLS = {"aws:SecureTransport": "true"}
JOB_S = 240
QUIET_S = 3

# Statements that name all resources, and why.
ALL_RESOURCES = {"LogInToTheImagesOfThisAccount": "ecr:GetAuthorizationToken knows no resources"}

# Kinds of resources that exist without running: nothing here costs by the hour while no photos come.
KINDS = {
    "aws_batch_compute_environment", "aws_batch_job_definition", "aws_batch_job_queue", "aws_budgets_budget",
    "aws_cloudwatch_log_group", "aws_cloudwatch_metric_alarm", "aws_default_security_group", "aws_ecr_lifecycle_policy",
    "aws_ecr_repository", "aws_iam_role", "aws_iam_role_policy", "aws_iam_user", "aws_iam_user_policy",
    "aws_internet_gateway", "aws_kms_alias", "aws_kms_key", "aws_lambda_event_source_mapping", "aws_lambda_function",
    "aws_route", "aws_route_table", "aws_route_table_association", "aws_s3_bucket",
    "aws_s3_bucket_lifecycle_configuration", "aws_s3_bucket_notification", "aws_s3_bucket_ownership_controls",
    "aws_s3_bucket_policy", "aws_s3_bucket_public_access_block", "aws_s3_bucket_server_side_encryption_configuration",
    "aws_s3_bucket_versioning", "aws_scheduler_schedule_group", "aws_security_group", "aws_sns_topic",
    "aws_sns_topic_subscription", "aws_sqs_queue", "aws_sqs_queue_policy", "aws_subnet", "aws_vpc", "aws_vpc_endpoint",
    "aws_vpc_security_group_egress_rule",
}  # fmt: skip


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    if shutil.which("terraform") is None:
        pytest.fail(
            "terraform is not installed; these tests need it: https://developer.hashicorp.com/terraform/install"
        )
    folder = tmp_path_factory.mktemp("aws")
    cloud = Cloud(folder)
    try:
        cloud.folder.mkdir()
        # All that the emulator needs to be told: it has no host names for buckets.
        (cloud.folder / "emulator_override.tf").write_text('provider "aws" {\n  s3_use_path_style = true\n}\n')
        settings = folder / "settings.json"
        quiet = {"quiet_minutes": QUIET_S / 60, "at_most_minutes": 1, "trials": 1, "name": "marbles", "confidence": 0.5}
        settings.write_text(json.dumps(quiet))
        arguments = ("--aws", "--folder", cloud.folder, "--yes")
        made = cloud.okko(
            "cloud", "up", *arguments, "--email", "me@example.org", "--device", "belt-1", "--device", "belt-2",
            "--settings", settings,
        )  # fmt: skip
        cloud.said = made.stdout
        key = "awskms:alias/okko-signing"
        roles = [word for role in ("targets", "snapshot", "timestamp") for word in ("--key", f"{role}={key}")]
        cloud.okko("registry", "--registry", f"s3://{cloud.bucket}/registry", "--keys", cloud.keys, "init", *roles)
        cloud.okko("cloud", "up", *arguments, "--root", cloud.keys / "root.json")
        del cloud.state
        yield cloud
    finally:
        cloud.emulator.close()


# First, so that the time it takes to apply all is not counted as a job's.
def test_up_says_what_it_costs_what_is_a_cap_and_what_an_alarm(cloud):
    assert "capped: a job is killed after 60 minutes, 3 times at most ($0.62)" in cloud.said
    assert "alarm only: an e-mail" in cloud.said
    assert "14 are started in 30 days" in cloud.said
    assert "aws iam create-access-key --user-name okko-device-belt-1" in cloud.said
    (trigger,) = cloud.managed("aws_lambda_function")
    assert trigger["values"]["environment"][0]["variables"]["OKKO_MAX_JOBS_PER_MONTH"] == "14"
    (budget,) = cloud.managed("aws_budgets_budget")
    assert float(budget["values"]["limit_amount"]) == 10
    assert {each["notification_type"] for each in budget["values"]["notification"]} == {"ACTUAL", "FORECASTED"}


def container(cloud, job, endpoint):
    """Runs what the container of a job would run."""
    definition = cloud.emulator.client("batch").describe_job_definitions(jobDefinitions=[job["jobDefinition"]])[
        "jobDefinitions"
    ][0]
    properties = definition["containerProperties"]
    dockerfile = (REPOSITORY / "infra" / "container" / "Dockerfile").read_text()
    program = json.loads(re.search(r"^ENTRYPOINT (.+)$", dockerfile, re.MULTILINE)[1])
    assert program[0] == "python"
    environment = {each["name"]: each["value"] for each in properties["environment"]}
    inherited = {name: value for name, value in cloud.environment.items() if not name.startswith("OKKO_REGISTRY")}
    return definition, subprocess.run(
        [sys.executable, *program[1:], *properties["command"]],
        env={**inherited, **environment, "AWS_ENDPOINT_URL": endpoint},
        capture_output=True,
        text=True,
        check=False,
        timeout=JOB_S,
    )


def test_uploaded_photos_start_one_job_whose_container_trains_and_publishes(cloud):
    assert cloud.jobs() == []
    recorder = Recorder(cloud.emulator.url)
    try:
        cloud.upload("OK", 10)
        cloud.upload("KO", 10)
        (job,) = cloud.wait_for_a_job(1)
        definition, done = container(cloud, job, recorder.url)
        assert done.returncode == 0, done.stderr[-3000:]
        outcome = json.loads(done.stdout)
        assert outcome["kind"] in {"promoted", "kept"}, "the gate decides; so few photos may not convince it"
        assert outcome["done"]["photos"] == {"KO": 10, "OK": 10}
        asked = list(recorder.asked)
        _, again = container(cloud, job, recorder.url)
        assert json.loads(again.stdout)["kind"] == "unchanged"
    finally:
        recorder.close()
    time.sleep(2 * QUIET_S)
    assert len(cloud.jobs()) == 1

    # What devices would see: a signed registry with the model in service.
    listed_ = cloud.okko(
        "registry", "--registry", f"s3://{cloud.bucket}/registry", "--root", cloud.keys / "root.json", "list", "--json"
    )
    assert outcome["done"]["bundle"] in listed_.stdout

    # The job's role allows all that the job asked for.
    policies = cloud.policies("role", "job")
    (key,) = (each["values"]["arn"] for each in cloud.managed("aws_kms_key"))
    assert {each.action for each in asked} == {"s3:GetObject", "s3:PutObject", "s3:ListBucket", "kms:Sign"}
    for each in asked:
        assert allowed(policies, each.action, key if each.resource == "key" else each.resource, TLS), each

    # It is killed after its time, and started again only when something from outside ended it.
    assert definition["timeout"] == {"attemptDurationSeconds": 3600}
    strategy = definition["retryStrategy"]
    assert strategy["attempts"] == 3
    assert [rule["action"].upper() for rule in strategy["evaluateOnExit"]] == ["RETRY"] * 4 + ["EXIT"]


def test_a_later_photo_starts_one_more_job_and_a_photo_without_a_label_none(cloud):
    before = len(cloud.jobs())
    s3 = cloud.emulator.client("s3")
    digest = "0" * 64
    s3.put_object(Bucket=cloud.bucket, Key=f"photos/unlabelled/belt-1/{digest}.png", Body=b"a frame")
    s3.put_object(Bucket=cloud.bucket, Key="training/note.json", Body=b"{}")
    time.sleep(2 * QUIET_S)
    assert len(cloud.jobs()) == before
    cloud.upload("OK", 1, skip=20)
    time.sleep(0.5 * QUIET_S)
    cloud.upload("KO", 1, skip=20)
    cloud.wait_for_a_job(before + 1)
    time.sleep(2 * QUIET_S)
    assert len(cloud.jobs()) == before + 1
    state = json.loads(s3.get_object(Bucket=cloud.bucket, Key=STATE)["Body"].read())
    assert len(state["starts_s"]) == before + 1
    assert state["waiting"]["changes"] == state["claimed"]["changes"] == 0


def test_what_cannot_be_understood_goes_aside(cloud):
    queue = next(each["values"] for each in cloud.managed("aws_sqs_queue") if each["name"] == "events")
    dead = next(each["values"] for each in cloud.managed("aws_sqs_queue") if each["name"] == "dead")
    assert json.loads(queue["redrive_policy"]) == {"deadLetterTargetArn": dead["arn"], "maxReceiveCount": 5}
    (trigger,) = cloud.managed("aws_lambda_function")
    assert queue["visibility_timeout_seconds"] >= 6 * trigger["values"]["timeout"]
    (calls,) = cloud.managed("aws_lambda_event_source_mapping")
    assert calls["values"]["function_response_types"] == ["ReportBatchItemFailures"]


def test_a_device_may_add_frames_under_its_own_name_and_read_models_and_nothing_else(cloud, tmp_path, monkeypatch):
    bucket = f"arn:aws:s3:::{cloud.bucket}"
    own, other = (f"{bucket}/photos/unlabelled/{device}/{'a' * 64}.png" for device in ("belt-1", "belt-2"))
    model = f"{bucket}/registry/bundles/{'b' * 64}/model.onnx"
    policies = cloud.policies("user", 'device["belt-1"]')
    assert len(policies) == 1
    new = TLS | {"s3:if-none-match": "*"}

    assert allowed(policies, "s3:PutObject", own, new)
    assert allowed(policies, "s3:GetObject", model, TLS)
    assert allowed(policies, "s3:GetObject", f"{bucket}/registry/metadata/timestamp.json", TLS)

    assert not allowed(policies, "s3:PutObject", own, TLS)  # not over what is there
    for target in (
        other,
        f"{bucket}/photos/unlabelled/belt-11/x.png",
        f"{bucket}/photos/OK/x.png",
        f"{bucket}/training/settings.json",
        model,
        f"{bucket}/registry/metadata/timestamp.json",
    ):
        assert not allowed(policies, "s3:PutObject", target, new), target
    for target in (own, other, f"{bucket}/photos/OK/x.png", f"{bucket}/training/trigger.json"):
        assert not allowed(policies, "s3:GetObject", target, TLS), target
    for action in (
        "s3:ListBucket", "s3:ListBucketVersions", "s3:DeleteObject", "s3:GetObjectVersion", "s3:PutObjectAcl",
        "s3:PutBucketPolicy", "kms:Sign", "batch:SubmitJob", "iam:CreateAccessKey", "sqs:SendMessage", "sts:AssumeRole",
    ):  # fmt: skip
        for resource in (bucket, own, model, "*"):
            assert not allowed(policies, action, resource, new), (action, resource)
    # Nobody without TLS, whatever else is allowed.
    (of_bucket,) = (json.loads(each["values"]["policy"]) for each in cloud.managed("aws_s3_bucket_policy"))
    assert not allowed([*policies, of_bucket], "s3:GetObject", model, {"aws:SecureTransport": "false"})

    # What a device's uploader really asks for is among it.
    from okko_edge.outbox.s3 import S3, Target

    recorder = Recorder(cloud.emulator.url)
    for name, value in cloud.environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    try:
        outbox = cloud.outputs["outbox"]
        s3 = S3(Target.parse(outbox), endpoint_url=recorder.url)
        assert s3.put_new(f"belt-1/{'c' * 64}.png", b"a frame", "image/png")
        assert not s3.put_new(f"belt-1/{'c' * 64}.png", b"a frame", "image/png")
    finally:
        recorder.close()
    assert len(recorder.asked) == 2
    for each in recorder.asked:
        assert allowed(policies, each.action, each.resource, new if each.if_none_match else TLS), each


def test_the_trigger_may_do_what_it_does_and_no_more(cloud):
    policies = cloud.policies("role", "trigger")
    (role,) = (
        each["values"]["arn"] for each in cloud.managed("aws_iam_role") if each["address"] == "aws_iam_role.alarm"
    )
    (definition,) = (each["values"]["arn"] for each in cloud.managed("aws_batch_job_definition"))
    (jobs,) = (each["values"]["arn"] for each in cloud.managed("aws_batch_job_queue"))
    (group,) = (each["values"] for each in cloud.managed("aws_scheduler_schedule_group"))
    alarm = group["arn"].replace(":schedule-group/", ":schedule/") + "/look-2026-01-01T000000"
    state = f"arn:aws:s3:::{cloud.bucket}/{STATE}"
    to_scheduler = {"iam:PassedToService": "scheduler.amazonaws.com"}
    for action, resource, context in (
        ("s3:GetObject", state, {}),
        ("s3:PutObject", state, {}),
        ("scheduler:CreateSchedule", alarm, {}),
        ("iam:PassRole", role, to_scheduler),
        ("batch:SubmitJob", definition, {}),
        ("batch:SubmitJob", jobs, {}),
    ):
        assert allowed(policies, action, resource, context), action
    assert not allowed(policies, "iam:PassRole", role, {"iam:PassedToService": "ec2.amazonaws.com"})
    assert not allowed(policies, "iam:PassRole", role.replace("alarm", "job"), to_scheduler)
    assert not allowed(policies, "s3:GetObject", f"arn:aws:s3:::{cloud.bucket}/photos/OK/x.png", {})
    assert not allowed(policies, "batch:SubmitJob", definition.replace("okko-train", "other"), {})


def test_no_policy_names_all_actions_or_all_resources_without_a_reason(cloud):
    seen = 0
    for each in cloud.managed("aws_iam_"):
        if "policy" not in each["values"] or not each["type"].endswith("_policy"):
            continue
        for statement in listed(json.loads(each["values"]["policy"])["Statement"]):
            seen += 1
            assert statement["Effect"] == "Allow"
            for action in listed(statement["Action"]):
                assert "*" not in action, each["address"]
            if "*" in listed(statement["Resource"]):
                assert statement["Sid"] in ALL_RESOURCES, each["address"]
    assert seen >= 15
    for each in [*cloud.managed("aws_s3_bucket_policy"), *cloud.managed("aws_sqs_queue_policy")]:
        for statement in listed(json.loads(each["values"]["policy"])["Statement"]):
            if statement["Effect"] == "Allow":
                assert statement["Principal"] == {"Service": "s3.amazonaws.com"}
                assert statement["Condition"]["StringEquals"]["aws:SourceAccount"]
    for each in cloud.managed("aws_iam_role"):
        if each["type"] != "aws_iam_role":
            continue
        for statement in listed(json.loads(each["values"]["assume_role_policy"])["Statement"]):
            assert set(statement["Principal"]) == {"Service"}, each["address"]


def test_buckets_have_all_protections(cloud):
    buckets = {each["values"]["id"] for each in cloud.managed("aws_s3_bucket") if each["type"] == "aws_s3_bucket"}
    assert buckets

    def of(kind):
        return {
            each["values"]["bucket"]: each["values"]
            for each in cloud.managed()
            if each["type"] == f"aws_s3_bucket_{kind}"
        }

    for bucket in buckets:
        assert of("versioning")[bucket]["versioning_configuration"][0]["status"] == "Enabled"
        assert of("server_side_encryption_configuration")[bucket]["rule"]
        block = of("public_access_block")[bucket]
        assert all(block[name] for name in block if name.startswith(("block_", "ignore_", "restrict_")))
        assert of("ownership_controls")[bucket]["rule"][0]["object_ownership"] == "BucketOwnerEnforced"
        policy = json.loads(of("policy")[bucket]["policy"])
        assert not allowed([policy], "s3:GetObject", f"arn:aws:s3:::{bucket}/x", {"aws:SecureTransport": "false"})
        assert any(
            statement["Effect"] == "Deny" and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
            for statement in listed(policy["Statement"])
        )
        rules = {rule["id"]: rule for rule in of("lifecycle_configuration")[bucket]["rule"]}
        assert rules["unfinished-uploads"]["abort_incomplete_multipart_upload"][0]["days_after_initiation"] == 7
        assert rules["old-versions"]["noncurrent_version_expiration"]
        assert rules["unlabelled"]["filter"][0]["prefix"] == "photos/unlabelled/"


def test_everything_is_tagged_and_nothing_runs_by_the_hour(cloud):
    untagged = [
        each["address"]
        for each in cloud.managed()
        if "tags_all" in each["values"] and not OWN.items() <= (each["values"]["tags_all"] or {}).items()
    ]
    assert untagged == []
    assert sum("tags_all" in each["values"] for each in cloud.managed()) >= 20
    assert {each["type"] for each in cloud.managed()} <= KINDS
    (place,) = cloud.managed("aws_batch_compute_environment")
    assert place["values"]["compute_resources"][0]["max_vcpus"] == 4  # one job at a time


def test_nothing_comes_in_and_only_tls_goes_out(cloud):
    (rule,) = cloud.managed("aws_vpc_security_group_")
    assert rule["type"] == "aws_vpc_security_group_egress_rule"
    assert (rule["values"]["from_port"], rule["values"]["to_port"]) == (443, 443)
    (usual,) = cloud.managed("aws_default_security_group")
    assert not usual["values"]["ingress"]
    assert not usual["values"]["egress"]


def test_the_files_are_valid_and_in_form(cloud):
    assert json.loads(cloud.terraform("validate", "-json"))["valid"]
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-diff", source()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    text = "".join(path.read_text() for path in sorted(source().glob("*.tf")))
    assert not re.search(r"\b[0-9]{12}\b", text), "an account's number"
    assert "arn:aws:" not in text, "a partition; there are others"
    assert not re.search(r"\bacl\b|public-read|AKIA", text)
    assert not re.search(r"endpoint_configuration|skip_credentials|access_key\s*=", text), "an emulator's matter"
    for block in re.findall(r'^variable "(\w+)" \{(.*?)^\}', text, re.MULTILINE | re.DOTALL):
        assert "description" in block[1], block[0]
        assert "type" in block[1], block[0]


def test_bad_variables_are_refused_before_anything_is_made(cloud, tmp_path):
    bad = {
        "region": "Frankfurt", "name": "No", "email": "nobody", "job_vcpus": 3, "spot": "perhaps", "devices": ["../OK"],
        "at_most_s": 1, "architecture": "PPC", "root_sha256": "x", "max_usd_per_month": 0, "trigger_zip": "x",
    }  # fmt: skip
    place = tmp_path / "bad"
    shutil.copytree(cloud.folder, place, symlinks=True, ignore=shutil.ignore_patterns("*.tfstate*", "okko.auto*"))
    (place / "bad.auto.tfvars.json").write_text(json.dumps(bad))
    done = subprocess.run(
        ["terraform", "plan", "-input=false", "-no-color"],
        cwd=place, env=cloud.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    for name in bad:
        assert f"var.{name}" in done.stderr or f'"{name}"' in done.stderr, name


# Last in this file, for it takes away what the others look at.
def test_down_says_what_goes_asks_and_keeps_photos_models_and_devices(cloud):
    asked = cloud.okko("cloud", "down", "--aws", "--folder", cloud.folder, check=False, input="n\n")
    assert asked.returncode == 1
    assert "will be deleted:\n" in asked.stdout
    going, _, staying = asked.stdout.partition("stays, and costs what is stored:")
    assert "aws_batch_job_queue.this" in going
    assert "aws_s3_bucket.this" not in going
    assert "aws_s3_bucket.this" in staying
    assert 'aws_iam_user.device["belt-1"]' in staying

    cloud.okko("cloud", "down", "--aws", "--folder", cloud.folder, "--yes")
    del cloud.state
    left = {each["type"] for each in cloud.managed()}
    assert "aws_s3_bucket" in left
    assert "aws_lambda_function" not in left
    photos = cloud.emulator.client("s3").list_objects_v2(Bucket=cloud.bucket, Prefix="photos/OK/")
    assert photos["KeyCount"] == 11
    assert cloud.emulator.client("lambda").list_functions()["Functions"] == []
    again = cloud.okko("cloud", "down", "--aws", "--folder", cloud.folder)
    assert "there is nothing to take away" in again.stdout

    wrong = ("down", "--aws", "--folder", cloud.folder, "--delete-photos-and-models")
    assert cloud.okko("cloud", *wrong, check=False, input="yes\n").returncode == 1
    bucket = cloud.bucket
    cloud.okko("cloud", *wrong, input="okko\n")
    names = [each["Name"] for each in cloud.emulator.client("s3").list_buckets()["Buckets"]]
    assert bucket not in names
    assert (cloud.folder / CHOSEN).is_file()  # for the next time
