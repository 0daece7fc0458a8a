"""One run at a time on a prefix: the journal, the heartbeat, and whether a holder is alive."""

from riva_stream.lease.journal import (
    LEASE,
    SENT,
    Identity,
    Journal,
    JournaledCheckpoint,
    JournaledPart,
    JournaledUpload,
    Process,
)
from riva_stream.lease.lease import Found, Lease, read_journal
from riva_stream.lease.liveness import Life, beats_by_the_stores_clock, known_to_have_ended, watch

__all__ = [
    "LEASE",
    "SENT",
    "Found",
    "Identity",
    "Journal",
    "JournaledCheckpoint",
    "JournaledPart",
    "JournaledUpload",
    "Lease",
    "Life",
    "Process",
    "beats_by_the_stores_clock",
    "known_to_have_ended",
    "read_journal",
    "watch",
]
