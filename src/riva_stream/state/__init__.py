"""What a run leaves so that another can go on: its id, its journal, its lease on the prefix, its state directory."""

from riva_stream.state.directory import StateDirectory, new_run_id
from riva_stream.state.journal import (
    JOURNAL,
    OWN_FOLDER,
    Identity,
    Journal,
    JournaledPart,
    JournaledUpload,
    Process,
)
from riva_stream.state.lease import Found, Lease, read_journal
from riva_stream.state.watch import LEASE, Life, beats_by_the_stores_clock, known_to_have_ended, watch

__all__ = [
    "JOURNAL",
    "LEASE",
    "OWN_FOLDER",
    "Found",
    "Identity",
    "Journal",
    "JournaledPart",
    "JournaledUpload",
    "Lease",
    "Life",
    "Process",
    "StateDirectory",
    "beats_by_the_stores_clock",
    "known_to_have_ended",
    "new_run_id",
    "read_journal",
    "watch",
]
