"""Events in words."""

from __future__ import annotations

from riva_stream.cli.redact import redact
from riva_stream.events import (
    Event,
    MemberFound,
    ObjectCompleted,
    ObjectVerified,
    PhaseChanged,
    RetryScheduled,
    StageFinished,
    StageStarted,
    Warned,
    Watching,
)
from riva_stream.sizes import human_size

__all__ = ["PHASES", "sentence"]

PHASES = {
    "prepare": "looking at source and destination",
    "stream": "streaming",
    "verify": "everything is read; checking it",
    "commit": "committing",
    "done": "",  # StageFinished says it
}


def sentence(event: Event) -> str:
    """One line for a person; empty for what needs no line of its own."""
    text = ""
    match event:
        case StageStarted():
            text = (
                f"{event.source_uri} ({human_size(event.source_size)}) -> {event.destination} ({_how(event)})"
            )
        case PhaseChanged():
            text = PHASES[event.phase]
        case MemberFound():
            text = f"found {event.name} ({human_size(event.size)})"
        case ObjectCompleted():
            text = f"complete: {event.key} ({human_size(event.size)})"
        case ObjectVerified():
            text = f"differs: {event.key}: {event.difference}" if event.difference else f"same: {event.key}"
        case Watching():
            text = f"watching the journal of {event.who} for up to {event.seconds:.0f} s"
        case RetryScheduled():
            text = f"retry {event.attempt} of {event.operation} in {event.delay:.1f} s: {event.reason}"
        case Warned():
            text = f"warning: {event.message}"
        case StageFinished():
            text = f"{event.outcome.replace('_', ' ')} after {event.seconds:.1f} s"
    return redact(text)


def _how(event: StageStarted) -> str:
    if event.mode != "full":
        return "by reference"
    copied = f", source copied by the store ({event.source_copy})" if event.source_copy != "sent" else ""
    return f"parts checked by {event.upload_check}{copied}"
