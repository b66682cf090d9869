"""The edge side of the `okko` command; each module imports its dependencies only when its command runs."""
