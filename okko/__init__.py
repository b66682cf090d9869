"""The front door: the `okko` command and nothing else."""
