"""Measurements behind the claims of the handbook; each module is a command, and none is imported by the product."""
