"""Triggers beside motion that settles: a belt that never rests (`passing`), a sensor (`beam`), a timer (`interval`).

`opening.open_trigger` makes the one that the settings name.
"""
