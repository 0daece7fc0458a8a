"""What the extractor passes to the pipeline, and its summary at the end."""

from __future__ import annotations

from dataclasses import dataclass

from riva_stream.archive.decoder import ContainerName
from riva_stream.archive.inside import InsideReport
from riva_stream.archive.policy import Member
from riva_stream.archive.snapshot import Count, Strict
from riva_stream.archive.tar import Kind

__all__ = ["ArchiveSummary", "Event", "ListedEntry", "MemberData", "MemberEnd", "MemberStart", "StagedMember"]


@dataclass(frozen=True, slots=True)
class MemberStart:
    """A selected member begins."""

    member: Member


@dataclass(frozen=True, slots=True)
class MemberData:
    """The next bytes of the current member; never empty."""

    data: memoryview | bytes
    """Immutable: a slice, not a copy, of an inflated block, which stays alive as long as the slice does."""


@dataclass(frozen=True, slots=True)
class ListedEntry(Strict):
    """One entry of the archive, for a report."""

    name: str
    """UTF-8; invalid bytes are escaped, and a very long name is shortened."""
    size: Count
    kind: Kind


@dataclass(frozen=True, slots=True)
class StagedMember(Strict):
    """A member that was handed over, and what was found inside it."""

    member: Member
    inside: InsideReport


@dataclass(frozen=True, slots=True)
class MemberEnd(StagedMember):
    """The member is complete: exactly as many bytes as its size were handed over."""


Event = MemberStart | MemberData | MemberEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveSummary:
    """What a complete and valid archive was found to be."""

    container: ContainerName
    checksum: str | None
    """What vouches for the bytes: ``gzip-crc32``, ``zstd-checksum``, or None when the container has no checksum."""
    members: int
    """Entries of any kind."""
    listing: tuple[ListedEntry, ...]
    """The first entries, up to ``Limits.listing``."""
    selected: tuple[StagedMember, ...]
    left_out: tuple[str, ...]
    """Names of matching members that an operating system left beside the real ones; the first hundred."""
    warnings: tuple[str, ...]
    expanded_bytes: int
    """Bytes of the tar stream, including those after its end, and of holes that were filled."""
