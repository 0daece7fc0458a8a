"""What can become of a request, besides being carried out and answered."""

from __future__ import annotations

from enum import Enum

__all__ = ["Break"]


class Break(Enum):
    """One way in which a request, or the run that has sent it, is broken."""

    CANCEL_BEFORE = "cancelled before it takes effect"
    CANCEL_AFTER = "cancelled after it took effect"
    CANCEL_LATE = "cancelled; it takes effect later"
    KILL_BEFORE = "killed before it takes effect"
    KILL_AFTER = "killed after it took effect"
    KILL_LATE = "killed; it takes effect later"
    ERROR_BEFORE = "500 before"
    ERROR_AFTER = "500 after"
    LOST = "answer lost"
    CUT = "body cut"
    CUTS = "this body and all that follow cut"
    DOWN = "the network is down from here on"
    DENIED = "403"
    DENIED_LATE = "403; the next attempt is killed, and takes effect when everything is over"
    REFUSED = "403, and again for the next attempts"
    MISSING = "404 for what is there"
    SWEPT = "all open uploads aborted, as by a lifecycle rule"
    BUSY = "503 for a while"
    EXPIRED = "token expired for all in flight"
    HANGS = "no answer; it takes effect later"
    FREEZE_BEFORE = "frozen; it takes effect when the run goes on"
    FREEZE_AFTER = "frozen just after it took effect"
