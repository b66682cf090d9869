"""`okko cloud cost`: what the loop on AWS costs, before anything is started."""

from __future__ import annotations

from dataclasses import asdict

import click

_USD = click.FloatRange(min=0)


@click.command()
@click.option("--photos", default=1000, show_default=True, type=click.IntRange(min=0), help="In the dataset.")
@click.option("--new-photos", default=1000, show_default=True, type=click.IntRange(min=0), help="Uploaded a month.")
@click.option("--photo-mb", default=0.5, show_default=True, type=_USD, help="Megabytes of a photo.")
@click.option("--jobs", default=10, show_default=True, type=click.IntRange(min=0), help="Training jobs a month.")
@click.option("--devices", default=1, show_default=True, type=click.IntRange(min=0), help="That fetch each new model.")
@click.option("--vcpus", default=4, show_default=True, type=click.Choice(["1", "2", "4", "8", "16"]),
              help="Processors of a job.")  # fmt: skip
@click.option("--memory-gb", default=8, show_default=True, type=click.IntRange(2, 120), help="Memory of a job.")
@click.option("--max-minutes", default=60.0, show_default=True, type=click.FloatRange(1, 1440),
              help="A job is killed then.")  # fmt: skip
@click.option("--attempts", default=3, show_default=True, type=click.IntRange(1, 10), help="Of a job, at most.")
@click.option("--spot", is_flag=True, help="On Fargate Spot.")
@click.option("--arm", is_flag=True, help="On ARM processors.")
@click.option("--no-signing-key", is_flag=True, help="Without a key in KMS.")
@click.option("--json", "as_json", is_flag=True, help="Print the estimate as JSON alone on standard output.")
def cost(
    photos: int,
    new_photos: int,
    photo_mb: float,
    jobs: int,
    devices: int,
    vcpus: str,
    memory_gb: int,
    max_minutes: float,
    attempts: int,
    spot: bool,
    arm: bool,
    no_signing_key: bool,
    as_json: bool,
) -> None:
    """Estimate what the loop on AWS costs, by list prices that okko comes with. Nothing is started or asked.

    \b
    okko cloud cost --photos 1000
    okko cloud cost --photos 20000 --jobs 30 --spot --json
    """  # noqa: D301
    import json

    from okko_cloud.aws.cost import JobSize, Use, estimate, load_prices

    prices = load_prices()
    size = JobSize(int(vcpus), memory_gb, max_minutes, attempts, spot, arm)
    use = Use(photos, new_photos, photo_mb, jobs, devices, not no_signing_key)
    found = estimate(use, size, prices)
    if as_json:
        said = {
            "region": prices.region,
            "prices_as_of": prices.as_of,
            "job_seconds": round(found.job_s, 1),
            "job_usd": round(found.job, 5),
            "job_usd_at_most": round(found.job_at_most, 5),
            "month_usd": round(found.month_usd, 4),
            "month": [asdict(item) for item in found.month],
            "sagemaker_ml_p3_2xlarge": [asdict(item) for item in found.p3],
            "prices": {name: asdict(price) for name, price in prices.by_name.items()},
        }
        click.echo(json.dumps(said, indent=2))
        return
    click.echo(f"List prices of {prices.region} as of {prices.as_of}, without tax and free tier; check them first.")
    kind = f"Fargate{' Spot' if spot else ''}, {size.vcpus} vCPU{' (ARM)' if arm else ''}, {size.memory_gb} GB"
    click.echo(f"\nOne training job on {photos} photos ({kind})")
    click.echo(f"  ${found.job:8.4f}  about {found.job_s / 60:.1f} minutes, start-up included")
    click.echo(
        f"  ${found.job_at_most:8.4f}  at the very most: {attempts} attempts, each killed after {max_minutes:g} minutes"
    )
    click.echo("\nA month")
    for item in found.month:
        click.echo(f"  ${item.usd:8.4f}  {item.what}")
    click.echo(f"  ${found.month_usd:8.4f}  together")
    click.echo("\nBeside it: one training by hand on SageMaker, ml.p3.2xlarge")
    for item in found.p3:
        click.echo(f"  ${item.usd:8.4f}  {item.what}")
    click.echo("\nSources")
    for source in sorted({price.source for price in prices.by_name.values()}):
        click.echo(f"  {source}")
