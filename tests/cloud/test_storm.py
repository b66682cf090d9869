from benchmarks.cloud_storm import Storm, blow


def test_after_a_storm_with_kills_every_photo_is_in_one_dataset_that_has_one_model(tmp_path):
    """The storm of `python -m benchmarks.cloud_storm`, short."""
    calm = blow(Storm(photos=60, seconds=3, kills=3), tmp_path)
    assert calm.kills == 3
    assert calm.lost == 0
    assert calm.in_dataset == calm.uploaded - calm.removed
    assert calm.datasets[-1] == 1
    assert set(calm.datasets[:-1]) <= {1}
    assert (calm.locked, calm.waiting, calm.leftovers, calm.errors) == (False, 0, 0, [])
    assert calm.jobs.count("killed") == 3
    assert set(calm.jobs) <= {"killed", "promoted", "kept", "unchanged", "failed", "busy"}
