"""Archives, read exactly or refused: gunzip, tar and the member policy, as a state machine without any I/O.

The entry point is :class:`Extractor`. How each odd archive is treated, compared with GNU tar, is listed in
``docs/archives.md``.
"""

from riva_stream.archive.events import (
    ArchiveSummary,
    Event,
    ListedEntry,
    MemberData,
    MemberEnd,
    MemberStart,
    StagedMember,
)
from riva_stream.archive.extract import Extractor, Snapshot
from riva_stream.archive.formats import content_type_of
from riva_stream.archive.inside import InnerFile, InsideReport
from riva_stream.archive.leftovers import HEAD, confirmed, suspicions
from riva_stream.archive.policy import Limits, Member
from riva_stream.archive.snapshot import InvalidSnapshotError
from riva_stream.archive.sniff import DEEP, not_a_model, odd_for_a_model
from riva_stream.archive.text import show

__all__ = [
    "DEEP",
    "HEAD",
    "ArchiveSummary",
    "Event",
    "Extractor",
    "InnerFile",
    "InsideReport",
    "InvalidSnapshotError",
    "Limits",
    "ListedEntry",
    "Member",
    "MemberData",
    "MemberEnd",
    "MemberStart",
    "Snapshot",
    "StagedMember",
    "confirmed",
    "content_type_of",
    "not_a_model",
    "odd_for_a_model",
    "show",
    "suspicions",
]
