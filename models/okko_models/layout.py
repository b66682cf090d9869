"""Names of folders that every part of okko reads alike."""

from typing import Final

UNLABELLED: Final = "unlabelled"
"""The folder, beside those of the labels, of photos that nobody has given a label yet."""
