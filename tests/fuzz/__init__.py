"""Hostile input for everything of okko that reads what others wrote; `python -m tests.fuzz --help`."""
