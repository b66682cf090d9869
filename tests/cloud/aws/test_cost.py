import json
import math

import pytest
from click.testing import CliRunner

from okko_cloud.aws.cost import (
    JobSize,
    Use,
    estimate,
    fixed_usd,
    job_s,
    job_usd,
    job_usd_at_most,
    jobs_within,
    load_prices,
)
from okko_cloud.commands.cost import cost

PRICES = load_prices()


def test_every_price_says_what_it_is_for_and_where_it_is_from():
    assert PRICES.region == "us-east-1"
    assert PRICES.as_of
    for name, price in PRICES.by_name.items():
        assert price.usd > 0, name
        assert price.what, name
        assert price.source.startswith("https://aws.amazon.com/"), name
        assert price.checked, name


def test_a_job_costs_what_its_processors_and_memory_cost_by_the_second():
    # 4 x 0.04048 + 8 x 0.004445 + 0.005, by hand.
    assert job_usd(3600, JobSize(4, 8), PRICES) == pytest.approx(0.20248)
    assert job_usd(36, JobSize(4, 8), PRICES) == pytest.approx(0.20248 / 60), "a minute at least"
    assert job_usd(3600, JobSize(4, 8, spot=True), PRICES) == pytest.approx(0.19748 * 0.3 + 0.005)
    assert job_usd(3600, JobSize(4, 8, arm=True), PRICES) < job_usd(3600, JobSize(4, 8), PRICES)


def test_the_estimate_agrees_with_the_run_it_was_taken_from():
    # 950 photos on two processors: 81 s; Fargate's are taken for half as fast.
    assert job_s(950, JobSize(2)) - 60 == pytest.approx(2 * 81, rel=0.05)


def test_the_job_of_a_thousand_photos_costs_a_fraction_of_the_way_by_hand():
    found = estimate(Use(photos=1000), JobSize(), PRICES)
    by_hand = found.p3[0].usd + found.p3[1].usd
    assert found.p3[0].usd == pytest.approx(0.3825)
    assert found.job < by_hand / 20


def test_the_month_is_the_sum_of_its_lines_and_grows_with_use():
    small, large = estimate(Use(), JobSize(), PRICES), estimate(Use(photos=50_000, jobs=30), JobSize(), PRICES)
    assert small.month_usd == pytest.approx(math.fsum(item.usd for item in small.month))
    assert large.month_usd > small.month_usd
    assert estimate(Use(signing_key=False), JobSize(), PRICES).month_usd < small.month_usd - 0.9


@pytest.mark.parametrize("usd", [1.9, 5, 10, 100])
@pytest.mark.parametrize("size", [JobSize(), JobSize(2, 4, 30, 1), JobSize(16, 32, 600, 3, spot=True)])
def test_so_many_jobs_never_cost_more_than_was_allowed_even_if_each_is_killed_at_the_end(usd, size):
    fixed = fixed_usd(Use(), PRICES)
    jobs = jobs_within(usd, fixed, size, PRICES)
    assert fixed + jobs * job_usd_at_most(size, PRICES) <= usd or jobs == 0
    assert fixed + (jobs + 1) * job_usd_at_most(size, PRICES) > usd


def test_the_command_prints_the_estimate_its_date_and_its_sources():
    said = CliRunner().invoke(cost, ["--photos", "1000"])
    assert said.exit_code == 0
    for words in ("us-east-1 as of", "One training job on 1000 photos", "ml.p3.2xlarge", "at the very most",
                  "https://aws.amazon.com/fargate/pricing/"):  # fmt: skip
        assert words in said.output
    found = json.loads(CliRunner().invoke(cost, ["--photos", "1000", "--json"]).output)
    assert found["job_usd"] < found["job_usd_at_most"]
    assert found["month_usd"] == pytest.approx(sum(item["usd"] for item in found["month"]), abs=1e-4)
