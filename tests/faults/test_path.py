"""The path at full speed, with all that stands beside it by default; how fast it is belongs to `benchmarks.edge`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

from tests.faults.devices import journal_rows

COUNT = 600


def test_at_full_speed_each_marble_has_one_verdict_and_none_is_late(bundle, photos, tmp_path):
    journal = tmp_path / "journal.sqlite"
    command = [sys.executable, "-m", "okko.cli", "run", bundle.path, "--camera", f"sim:{photos}", "--count", COUNT]
    command += ["--pace", "fast", "--belt-speed", 8, "--frame-rate", 60, "--journal", journal, "--json"]
    environment = {"XDG_STATE_HOME": str(tmp_path / "state"), "PATH": "/usr/bin:/bin"}
    ran = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True, env=environment)
    told = json.loads(ran.stdout)
    rows = list(journal_rows(journal).values())
    assert told["marbles"] == told["journal"]["written"] == COUNT
    assert [row.number for row in rows] == list(range(1, COUNT + 1))
    # Each round carries every photo once, so a marble that was missed or seen twice would show.
    for begin in range(0, COUNT, 8):
        assert set(Counter(row.photo for row in rows[begin : begin + 8]).values()) == {1}
    assert all(row.verdict == row.photo.split("/")[0] for row in rows)
    assert not any(told["events"].values()), "nothing late, stale, lost or failed"
