"""The outbox: frames worth a person's label, kept on the device until there is a network, then uploaded to S3.

`worth` decides what is kept and what goes first, `store` is the folder, `outbox` the listener beside the sorting path,
`uploader` and `s3` bring it out. `open_outbox` puts them together as the settings say.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from okko_edge.outbox.outbox import Outbox, OutboxError, device_name
from okko_edge.outbox.s3 import S3, Target, UploadError
from okko_edge.outbox.store import Item, Label, OutboxFolder, Sent, Sidecar
from okko_edge.outbox.uploader import Uploaded, Uploader
from okko_edge.outbox.worth import Reason, Worth

if TYPE_CHECKING:
    from collections.abc import Callable

    from okko_edge.clock import Clock
    from okko_edge.events import Counters
    from okko_edge.settings import OutboxSettings
    from okko_models.bundle import Bundle

__all__ = [
    "S3",
    "Item",
    "Label",
    "Outbox",
    "OutboxError",
    "OutboxFolder",
    "Reason",
    "Sent",
    "Sidecar",
    "Target",
    "UploadError",
    "Uploaded",
    "Uploader",
    "Worth",
    "device_name",
    "open_outbox",
    "outbox_folder",
]


def outbox_folder(settings: OutboxSettings) -> Path:
    """Returns where the outbox is: as set, else `okko/outbox` in the XDG state directory."""
    from okko_edge.journal import state_folder

    return Path(settings.folder) if settings.folder else state_folder() / "outbox"


def open_outbox(
    settings: OutboxSettings,
    bundle: Bundle,
    *,
    warn: Callable[[str], None],
    counters: Counters,
    clock: Clock | None = None,
) -> tuple[Outbox, Uploader | None]:
    """Opens the outbox, and starts to upload if a bucket is set; the uploader is to be closed after the outbox.

    Args:
        settings: the section `outbox`.
        bundle: the model whose frames are kept.
        warn: takes one sentence for the user.
        counters: hears of frames kept, lost, removed and uploaded.
        clock: says when a frame was decided on.

    Raises:
        OkkoError: the folder cannot be used, the bucket is none, or boto3 is not installed.
    """
    s3 = S3(Target.parse(settings.bucket), endpoint_url=settings.endpoint_url) if settings.bucket else None
    manifest = bundle.manifest
    outbox = Outbox(
        settings,
        folder=outbox_folder(settings),
        labels=manifest.labels,
        rule=manifest.decision,
        bundle_digest=bundle.digest,
        warn=warn,
        counters=counters,
        clock=clock,
    )
    if s3 is None:
        return outbox, None
    uploader = Uploader(outbox.store, s3, retry_s=settings.retry_s, warn=warn, counters=counters)
    outbox.on_change = uploader.wake
    uploader.start()
    return outbox, uploader
