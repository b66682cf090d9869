"""`okko cloud up --aws | plan | down --aws`: the loop on AWS, by Terraform; see docs/aws.md."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from okko_models.damaged import decode_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from okko_cloud.aws.terraform import Terraform
    from okko_cloud.place import Settings

_AWS = click.option("--aws", is_flag=True, expose_value=False, help="On AWS.")
_FOLDER = click.option("--folder", default="okko-aws", show_default=True, metavar="DIR",
                       type=click.Path(path_type=Path, file_okay=False),
                       help="Terraform's state and what was chosen; keep it.")  # fmt: skip
_YES = click.option("--yes", is_flag=True, help="Do not ask.")
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)

_CHOICES = (
    click.option("--email", metavar="ADDRESS", help="Who hears of costs and failures; needed the first time."),
    click.option("--region", metavar="REGION", help="Of AWS.  [default: us-east-1]"),
    click.option("--name", metavar="NAME", help="What all names begin with.  [default: okko]"),
    click.option("--max-usd-per-month", type=click.FloatRange(1, 10_000), metavar="USD",
                 help="No job is started that could lead beyond it.  [default: 10]"),
    click.option("--device", "devices", multiple=True, metavar="NAME",
                 help="A device that may upload and fetch (repeatable; the list replaces the one before)."),
    click.option("--root", type=_FILE, metavar="FILE", help="The root.json of the registry that jobs believe."),
    click.option("--settings", type=_FILE, metavar="FILE", help="What is trained, and when: training/settings.json."),
    click.option("--image", metavar="NAME:TAG", help="A training image elsewhere than in this cloud's repository."),
    click.option("--image-tag", metavar="TAG", help="Which image of this cloud's repository.  [default: 1]"),
    click.option("--vcpus", type=click.Choice(["1", "2", "4", "8", "16"]), help="Processors of a job.  [default: 4]"),
    click.option("--memory-gb", type=click.IntRange(2, 120), help="Memory of a job.  [default: 8]"),
    click.option("--attempts", type=click.IntRange(1, 10), help="Of a job, at most.  [default: 3]"),
    click.option("--spot/--no-spot", default=None, help="On Fargate Spot, which may interrupt.  [default: no]"),
    click.option("--arm/--no-arm", default=None, help="On ARM processors.  [default: no]"),
    click.option("--signing-key/--no-signing-key", default=None, help="A key in KMS to sign with.  [default: yes]"),
)  # fmt: skip


def _choices(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_CHOICES):
        command = option(command)
    return command


@click.command()
@_AWS
@_FOLDER
@_choices
@_YES
def up(folder: Path, yes: bool, settings: Path | None, **choices: Any) -> None:
    """Start the loop on AWS, or change it: shows the costs and what Terraform would do, and asks.

    What is not given stays as it was the last time.

    \b
    okko cloud up --aws --email me@example.org --device belt-1 --max-usd-per-month 5
    """  # noqa: D301
    terraform, wanted, most = _prepare(folder, settings, choices)
    _tell_costs(terraform, most)
    from okko_cloud.aws.terraform import PLAN

    terraform.run("plan", "-input=false", f"-out={PLAN}")
    if not yes and not click.confirm("Make it so?"):
        raise SystemExit(1)
    terraform.run("apply", "-input=false", PLAN)
    outputs = terraform.outputs()
    if wanted is not None:
        from okko_cloud.place import Place, save_settings

        save_settings(Place.parse(outputs["place"]).store(), wanted)
    _tell_next(terraform, outputs, folder)


@click.command()
@_AWS
@_FOLDER
@_choices
def plan(folder: Path, settings: Path | None, **choices: Any) -> None:
    """Show what would be made or changed on AWS, and what it costs; makes nothing.

    \b
    okko cloud plan --email me@example.org --device belt-1
    """  # noqa: D301
    terraform, _, most = _prepare(folder, settings, choices)
    _tell_costs(terraform, most)
    terraform.run("plan", "-input=false")


@click.command()
@_AWS
@_FOLDER
@click.option("--delete-photos-and-models", "everything", is_flag=True, help="Those, too; they are gone then.")
@_YES
def down(folder: Path, everything: bool, yes: bool) -> None:
    """Take the loop on AWS away; photos, models, the signing key and the devices' access stay unless told otherwise.

    \b
    okko cloud down --aws
    """  # noqa: D301
    from okko_cloud.aws.terraform import Terraform

    terraform = Terraform(folder)
    terraform.check_there()
    there = terraform.there()
    going = there if everything else terraform.to_go()
    staying = [address for address in there if address not in going]
    if not going:
        click.echo("there is nothing to take away" + (f"; {len(staying)} resources stay" if staying else ""))
        return
    click.echo("will be deleted:")
    for address in going:
        click.echo(f"  {address}")
    if staying:
        click.echo("stays, and costs what is stored:")
        for address in staying:
            click.echo(f"  {address}")
    else:
        click.echo("nothing stays: photos, models and the key that signed them are gone then, in all their versions")
    if everything and not yes:
        name = terraform.chosen().get("name", "okko")
        if click.prompt(f"Type {name} to delete everything", default="", show_default=False) != name:
            raise SystemExit(1)
    elif not yes and not click.confirm("Delete that?"):
        raise SystemExit(1)
    terraform.destroy(everything=everything)


def _prepare(folder: Path, settings: Path | None, choices: dict[str, Any]) -> tuple[Terraform, Settings | None, Any]:
    """Makes the folder ready; returns Terraform, the settings to save, and the size of a job at most."""
    import hashlib

    import msgspec

    from okko_cloud.aws.terraform import Terraform
    from okko_cloud.place import Settings
    from okko_models.errors import OkkoError

    chosen: dict[str, Any] = {}
    for option, variable in _VARIABLES.items():
        if (value := choices[option]) is not None:
            chosen[variable] = value
    if choices["devices"]:
        chosen["devices"] = sorted(choices["devices"])
    if choices["vcpus"] is not None:
        chosen["job_vcpus"] = int(choices["vcpus"])
    if choices["arm"] is not None:
        chosen["architecture"] = "ARM64" if choices["arm"] else "X86_64"
    if choices["root"] is not None:
        chosen["root_sha256"] = hashlib.sha256(choices["root"].read_bytes()).hexdigest()
    wanted = None
    if settings is not None:
        try:
            wanted = decode_json(settings.read_bytes(), Settings)
        except msgspec.DecodeError as error:
            raise OkkoError(f"{settings}: {error}") from error
        chosen["quiet_s"] = max(1.0, 60 * wanted.quiet_minutes)
        chosen["at_most_s"] = max(chosen["quiet_s"], 60 * wanted.at_most_minutes)
        chosen["job_minutes"] = max(1.0, wanted.max_minutes)
    terraform = Terraform(folder)
    everything = {**terraform.chosen(), **chosen}
    if "email" not in everything:
        raise click.UsageError("--email is missing: who hears of costs and of what went wrong?")
    chosen["max_jobs_per_month"] = _jobs_a_month(everything)
    terraform.prepare(chosen)
    return terraform, wanted, everything


_VARIABLES = {
    "email": "email",
    "region": "region",
    "name": "name",
    "max_usd_per_month": "max_usd_per_month",
    "image": "image",
    "image_tag": "image_tag",
    "memory_gb": "job_memory_gb",
    "attempts": "job_attempts",
    "spot": "spot",
    "signing_key": "signing_key",
}


def _size(chosen: dict[str, Any]) -> Any:
    from okko_cloud.aws.cost import JobSize

    return JobSize(
        vcpus=chosen.get("job_vcpus", 4),
        memory_gb=chosen.get("job_memory_gb", 8),
        minutes=chosen.get("job_minutes", 60.0),
        attempts=chosen.get("job_attempts", 3),
        spot=chosen.get("spot", False),
        arm=chosen.get("architecture") == "ARM64",
    )


def _use(chosen: dict[str, Any]) -> Any:
    from okko_cloud.aws.cost import Use

    return Use(devices=len(chosen.get("devices", [])), signing_key=chosen.get("signing_key", True))


def _jobs_a_month(chosen: dict[str, Any]) -> int:
    from okko_cloud.aws.cost import fixed_usd, job_usd_at_most, jobs_within, load_prices
    from okko_models.errors import OkkoError

    prices, size = load_prices(), _size(chosen)
    limit, fixed = chosen.get("max_usd_per_month", 10), fixed_usd(_use(chosen), prices)
    jobs = jobs_within(limit, fixed, size, prices)
    if jobs < 1:
        raise OkkoError(
            f"${limit:g} a month are not enough for one job: without jobs it is ${fixed:.2f} a month, "
            f"and a job may cost ${job_usd_at_most(size, prices):.2f}. "
            "Raise --max-usd-per-month, or lower --attempts or --vcpus"
        )
    return jobs


def _tell_costs(terraform: Terraform, chosen: dict[str, Any]) -> None:
    from okko_cloud.aws.cost import estimate, load_prices

    prices, size, use = load_prices(), _size(chosen), _use(chosen)
    found = estimate(use, size, prices)
    click.echo(
        f"costs, by list prices of {prices.region} as of {prices.as_of} (okko cloud cost shows them all):\n"
        f"  ${found.job:.3f} a job on {use.photos} photos, about {found.job_s / 60:.1f} minutes\n"
        f"  ${found.month_usd:.2f} a month with {use.jobs} jobs\n"
        f"capped: a job is killed after {size.minutes:g} minutes, {size.attempts} times at most "
        f"(${found.job_at_most:.2f}); one runs at a time; "
        f"{terraform.chosen()['max_jobs_per_month']} are started in 30 days, at most\n"
        f"alarm only: an e-mail when the account's month is expected to pass ${chosen.get('max_usd_per_month', 10):g}"
    )


def _tell_next(terraform: Terraform, outputs: dict[str, Any], folder: Path) -> None:
    chosen = terraform.chosen()
    click.echo(f"\nit is there: {outputs['place']}; Terraform's state is in {folder}, keep it")
    steps = []
    if not chosen.get("image"):
        steps.append(
            "push the training image:\n"
            f"     docker buildx build --platform linux/{'arm64' if chosen.get('architecture') == 'ARM64' else 'amd64'}"
            f" -f infra/container/Dockerfile -t {outputs['image']} --push ."
        )
    if not chosen.get("root_sha256"):
        key = outputs["signing_key"] or "awskms:alias/YOUR-KEY"
        roles = " ".join(f"--key {role}={key}" for role in ("targets", "snapshot", "timestamp"))
        steps.append(
            "make the registry, and tell jobs to believe it:\n"
            f"     okko registry --registry {outputs['registry']} --keys okko-keys init {roles}\n"
            "     okko cloud up --aws --root okko-keys/root.json"
        )
    steps.extend(
        f"give {device} its key: aws iam create-access-key --user-name {user}"
        for device, user in sorted(outputs["device_users"].items())
    )
    if outputs["device_users"]:
        steps.append(f'on each device: outbox.bucket = "{outputs["outbox"]}", and outbox.device its name')
    for number, step in enumerate(steps, 1):
        click.echo(f"{number:2}. {step}")
