"""Whether the run that holds a prefix is alive, judged by its journal.

No two clocks are compared: a journal that changes while it is watched has a live holder, and one that does not change
for one lease has none. Where there is no time to watch, the store's own clock has to do: the timestamp of the journal,
and the time that the store gives with an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial

from riva_stream import clock
from riva_stream.events import Observer, Watching, ignore
from riva_stream.lease.journal import LEASE, Process
from riva_stream.lease.lease import Found, read_journal
from riva_stream.s3 import Bucket
from riva_stream.s3.bucket import confirm_refusal

__all__ = ["Life", "ended_reason", "is_heartbeat_fresh", "watch"]

_SLACK = 2.0
"""Seconds; a store's timestamps are whole seconds."""


@dataclass(frozen=True, slots=True)
class Life:
    """The result of watching a journal."""

    found: Found
    """The journal as last read."""
    alive: bool | None
    """None: it was not watched long enough to tell."""
    why: str
    seconds: float
    """Seconds for which it was watched."""


def ended_reason(found: Found, here: Process) -> str:
    """Why the journal's run has certainly ended; "" if only watching can tell."""
    journal = found.journal
    if journal is not None and journal.stopped:
        return "it says that it has stopped"
    if journal is not None and journal.process.is_dead(here):
        return f"its process {journal.process.pid} on this host has ended"
    return ""


async def watch(
    bucket: Bucket,
    key: str,
    found: Found,
    here: Process,
    *,
    seconds: float | None = None,
    observer: Observer = ignore,
) -> Life | None:
    """Watch a journal until its holder renews it, but no longer than ``seconds``.

    Args:
        bucket: where it is.
        key: its key.
        found: the journal as it was read.
        here: this process.
        seconds: None: the journal's own lease, after which another run would take over.
        observer: notified when watching begins.

    Returns:
        None if the journal was deleted meanwhile: its run has finished, or has failed for good.
    """
    if ended := ended_reason(found, here):
        return Life(found, False, ended, 0.0)
    lease = found.journal.lease if found.journal else LEASE
    limit = lease if seconds is None else seconds
    who = found.journal.holder() if found.journal else "an unknown run"
    observer(Watching(who=who, seconds=limit))
    since = clock.monotonic()
    while (watched := clock.monotonic() - since) < limit:
        await clock.sleep(min(1.0, limit / 10, limit - watched))
        now = await confirm_refusal(partial(bucket.head, key))
        if now is None:
            return None
        if now.etag != found.etag:
            again = await read_journal(bucket, key)
            if again is None:
                return None
            stopped = again.journal is not None and again.journal.stopped
            why = "it has stopped just now" if stopped else "its journal has changed while it was watched"
            return Life(again, not stopped, why, clock.monotonic() - since)
    if watched < lease:
        return Life(found, None, f"no heartbeat for {watched:.0f} s, which is less than its lease", watched)
    return Life(found, False, f"no heartbeat for {watched:.0f} s", watched)


def is_heartbeat_fresh(now: datetime | None, written: datetime | None, lease: float) -> bool | None:
    """Whether a journal was written within its lease, by the store's clock alone; None: the store does not say."""
    if now is None or written is None:
        return None
    return (now - written).total_seconds() <= lease + _SLACK
