"""What a run leaves so that another can go on: its id, its journal, its lease on the prefix, its state directory."""

from riva_stream.state.directory import StateDirectory, new_run_id
from riva_stream.state.journal import (
    JOURNAL,
    Identity,
    Journal,
    JournaledPart,
    JournaledUpload,
    Process,
)
from riva_stream.state.lease import Lease, read_journal

__all__ = [
    "JOURNAL",
    "Identity",
    "Journal",
    "JournaledPart",
    "JournaledUpload",
    "Lease",
    "Process",
    "StateDirectory",
    "new_run_id",
    "read_journal",
]
