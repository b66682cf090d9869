"""What is to be said about a device's models: for `okko device status`, as one JSON object and as text."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from okko_edge.commands.default_group import local_time
from okko_edge.updater.alone import sorting_model
from okko_edge.updater.fetching import ROOT
from okko_edge.updater.shelf import ShelfError
from okko_edge.updater.updater import device_name

if TYPE_CHECKING:
    from okko_edge.settings import Settings
    from okko_edge.updater.shelf import Shelf

LAST = 10
"""So many outcomes are shown."""


def status_of(shelf: Shelf, settings: Settings) -> dict[str, Any]:
    """Returns all of it; nothing is changed."""
    state, updates = shelf.state, settings.updates
    sorting = sorting_model(shelf, settings)
    probation, candidate = shelf.probation(), shelf.candidate()
    return {
        "folder": str(shelf.folder),
        "enabled": updates.enabled,
        "enrolled": (shelf.trust / ROOT).is_file(),
        "registry": updates.registry or state.registry,
        "channel": updates.channel,
        "device": device_name(updates),
        "agent": _agent_runs(shelf),
        "in_service": _model(shelf, shelf.current),
        "sorting": None
        if sorting is None
        else {"digest": sorting.digest, "name": sorting.manifest.name, "version": sorting.manifest.version},
        "previous": _model(shelf, shelf.previous),
        "probation": None if probation is None else asdict(probation),
        "candidate": None if candidate is None or state.candidate is None else asdict(state.candidate),
        "pin": state.pin,
        "rejected": [asdict(rejection) for rejection in state.rejected],
        "confirmed": list(state.confirmed),
        "outcomes": [asdict(outcome) for outcome in shelf.reports.latest(LAST)],
    }


def as_text(told: dict[str, Any]) -> str:
    """Returns it as lines for a person."""
    lines = [f"{'device':<12}{told['device']}, channel {told['channel']}, {told['folder']}"]
    registry = told["registry"] or "no registry"
    lines.append(f"{'registry':<12}{registry}{'' if told['enrolled'] else ': not enrolled (okko device enroll)'}")
    if not told["enabled"]:
        lines.append(f"{'':<12}updates.enabled is not set: okko run sorts with the bundle that it is given")
    lines.append(f"{'in service':<12}{_words(told['in_service']) or 'no model of an update'}")
    sorting = told["sorting"]
    if sorting and (told["in_service"] is None or sorting["digest"] != told["in_service"]["digest"]):
        lines.append(f"{'sorting':<12}{_words(sorting)}")
    if probation := told["probation"]:
        lines.append(f"{'':<12}on probation since {local_time(probation['at'])}, bad starts: {probation['starts']}")
    lines.append(f"{'previous':<12}{_words(told['previous']) or 'none'}")
    if candidate := told["candidate"]:
        doing = "okko run tries it" if told["agent"] else "waits for okko run, or okko update"
        lines.append(f"{'candidate':<12}{_words(candidate)}, {candidate['stage']}, for {candidate['place']}; {doing}")
    if told["pin"]:
        lines.append(f"{'pin':<12}{told['pin'][:12]}: held on this model (okko device pin --none)")
    lines += [
        f"{'rejected':<12}{known['digest'][:12]}  {local_time(known['at'])}  {known['reason']}"
        for known in told["rejected"][:LAST]
    ]
    for outcome in told["outcomes"]:
        model = f"{outcome['digest'][:12]} " if outcome["digest"] else ""
        reason = f": {outcome['reason']}" if outcome["reason"] else ""
        lines.append(f"{local_time(outcome['at'])}  {model}{outcome['what']}{reason}")
    return "\n".join(lines)


def _model(shelf: Shelf, digest: str) -> dict[str, str] | None:
    if not digest:
        return None
    try:
        manifest = shelf.open(digest).manifest
    except ShelfError as error:
        return {"digest": digest, "name": "", "version": "", "damaged": str(error)}
    return {"digest": digest, "name": manifest.name, "version": manifest.version}


def _words(model: dict[str, str] | None) -> str:
    if model is None:
        return ""
    named = f"{model['digest'][:12]}  {model['name']} {model['version']}"
    return f"{model['digest'][:12]}  {model['damaged']}" if model.get("damaged") else named


def _agent_runs(shelf: Shelf) -> bool | None:
    """Whether another process is in charge; None: not known, because the folder cannot be written by this user."""
    if not shelf.folder.is_dir():
        return False
    try:
        free = shelf.take_charge()
    except ShelfError:
        return None
    shelf.give_up_charge()
    return not free
