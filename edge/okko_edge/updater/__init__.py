"""The updater: brings models to a device, tries each beside the one in service, and goes back by itself if it is worse.

`state` decides, `shelf` keeps models and decisions on the disk, `fetching` is a process of its own that talks to the
registry, `updater` is the light thread in the agent that leads a model from one stage to the next. What it asks of the
rest of the agent is in `protocols`. Nothing here is on the sorting path.
"""
