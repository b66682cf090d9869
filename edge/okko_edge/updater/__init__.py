"""The updater: brings models to a device, tries each beside the one in service, and goes back by itself if it is worse.

`state` decides, `shelf` keeps models and decisions on the disk, `fetching` is a process of its own that talks to the
registry, `updater` is the light thread in the agent that leads a model from one stage to the next. What it asks of the
rest of the agent is in `protocols`. Nothing here is on the sorting path.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from okko_edge.settings import UpdatesSettings


def models_folder(settings: UpdatesSettings) -> Path:
    """Returns where the device's models are: as set, else `okko/models` in the XDG state directory."""
    from okko_edge.journal import state_folder

    return Path(settings.folder) if settings.folder else state_folder() / "models"
