"""One run at a time on a prefix: the journal, the heartbeat, and whether a holder is alive."""

from riva_stream.lease.journal import (
    LEASE,
    SENT,
    SENT_INSTEAD,
    Identity,
    Journal,
    JournaledCheckpoint,
    JournaledPart,
    JournaledUpload,
    Process,
)
from riva_stream.lease.lease import Found, Lease, read_journal
from riva_stream.lease.liveness import Life, ended_reason, is_heartbeat_fresh, watch

__all__ = [
    "LEASE",
    "SENT",
    "SENT_INSTEAD",
    "Found",
    "Identity",
    "Journal",
    "JournaledCheckpoint",
    "JournaledPart",
    "JournaledUpload",
    "Lease",
    "Life",
    "Process",
    "ended_reason",
    "is_heartbeat_fresh",
    "read_journal",
    "watch",
]
