"""From entries of the tar to events: what is staged is handed on, everything is counted, some of it is remembered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from riva_stream.archive.events import Event, ListedEntry, MemberData, MemberEnd, MemberStart, StagedMember
from riva_stream.archive.inside import Inside, shorten
from riva_stream.archive.leftovers import HEAD, suspicions
from riva_stream.archive.policy import Limits, Policy, show
from riva_stream.errors import ArchiveError, ArchiveFault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from riva_stream.archive.leftovers import Suspicion
    from riva_stream.archive.policy import Member
    from riva_stream.archive.tar import Entry

__all__ = ["Selection"]

_WARNINGS = 100
_LEFT_OUT = 100
"""Names of leftovers that are kept."""
_SHOWN = 20
_PACKED = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2", ".zip", ".7z", ".rar")


@dataclass(eq=False, slots=True)
class _Suspect:
    """A file that matches, but may be no model: its first bytes will tell."""

    entry: Entry
    suspicions: tuple[Suspicion, ...]
    head: bytearray = field(default_factory=bytearray)
    pieces: list[memoryview] = field(default_factory=list)


class Selection:
    """The :class:`~riva_stream.archive.tar.Sink` of the archive's own tar.

    Args:
        include: shell patterns of the members to stage.
        limits: what the archive may ask of us.
    """

    def __init__(self, include: Sequence[str], limits: Limits) -> None:
        self._limits = limits
        self._policy = Policy(include, limits)
        self._events: list[Event] = []
        self._member: Member | None = None
        self._inside: Inside | None = None
        self._suspect: _Suspect | None = None
        self._warnings: list[str] = []
        self._more_warnings = 0
        self.entries = 0
        self.holes = 0
        """Zero bytes made up for sparse members so far."""
        self.last = ""
        """The name of the latest entry."""
        self.listing: list[ListedEntry] = []
        self.staged: list[StagedMember] = []
        self.left_out: list[str] = []
        """Names of members that were left out as no models; the first hundred."""
        self._more_left_out = 0
        self._kinds_left_out: dict[str, None] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was left out, then the first hundred remarks, and how many more there were."""
        left_out = (self._what_was_left_out(),) if self.left_out else ()
        more = (f"and {self._more_warnings} more warnings",) if self._more_warnings else ()
        return (*left_out, *self._warnings, *more)

    def take(self) -> list[Event]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def entry(self, entry: Entry) -> bool:
        """A new entry; whether it is staged.

        Raises:
            ArchiveError: there are too many, or it matches and cannot be staged.
        """
        self.entries += 1
        self.last = entry.name
        if self.entries > self._limits.members:
            raise ArchiveError(
                f"the archive has more than {self._limits.members} entries; {show(entry.name)} is one too many",
                hint="if that is how the archive should be, raise --max-members",
                fault=ArchiveFault.LIMIT,
            )
        if len(self.listing) < self._limits.listing:
            self.listing.append(ListedEntry(shorten(entry.name), entry.size, entry.kind))
        matches = entry.kind == "file" and self._policy.matches(entry.name)
        suspected = suspicions(entry.name) if matches else ()
        if suspected and not self._policy.names(entry.name):
            self._suspect = _Suspect(entry, suspected)
            return True
        return self._begin(entry)

    def _begin(self, entry: Entry) -> bool:
        self._member = self._policy.select(entry)
        if self._member is None:
            return False
        if entry.offset + self.holes + entry.size > self._limits.expanded_bytes:
            raise ArchiveError(
                f"member {show(entry.name)} of {entry.size} bytes takes the archive over {self._limits.expanded_bytes} bytes",
                hint="if that is how the archive should be, raise --max-expanded",
                fault=ArchiveFault.LIMIT,
            )
        self._inside = Inside(self._member, self._limits.header_bytes)
        self._events.append(MemberStart(self._member))
        return True

    def data(self, view: memoryview) -> None:
        """Bytes of the member."""
        suspect = self._suspect
        if suspect:
            suspect.head += view[: HEAD - len(suspect.head)]
            suspect.pieces.append(view)
            if len(suspect.head) == min(HEAD, suspect.entry.size):
                self._decide(suspect)
        elif self._inside:
            self._inside.feed(view)
            self._events.append(MemberData(view))

    def _decide(self, suspect: _Suspect) -> None:
        """Leave it out, or begin the member with what is there of it."""
        self._suspect = None
        name = suspect.entry.name
        head, size = bytes(suspect.head), suspect.entry.size
        found = next((s.what for s in suspect.suspicions if s.confirms(head, size)), None)
        if found:
            self._kinds_left_out[found] = None
            if len(self.left_out) < _LEFT_OUT:
                self.left_out.append(shorten(name))
            else:
                self._more_left_out += 1
            return
        self.warn(
            f"member {show(name)} is staged: by its name it could be {suspect.suspicions[0].what}, by its bytes it is not"
        )
        self._begin(suspect.entry)
        for view in suspect.pieces:
            self.data(view)

    def hole(self, count: int) -> None:
        """As many zeros are made up for a sparse member."""
        self.holes += count

    def end(self) -> None:
        """The member is complete.

        Raises:
            ArchiveError: it is a model of no bytes, or of nothing but zeros.
        """
        if self._suspect:  # it has no bytes
            self._decide(self._suspect)
        if self._member is None or self._inside is None:  # left out
            return
        report = self._inside.finish()
        for text in report.warnings:
            self.warn(text)
        self.staged.append(StagedMember(self._member, report))
        self._events.append(MemberEnd(self._member, report))
        self._member = self._inside = None

    def warn(self, text: str) -> None:
        """Keep a remark for the summary."""
        if len(self._warnings) < _WARNINGS:
            self._warnings.append(text)
        else:
            self._more_warnings += 1

    def nothing_matched(self) -> ArchiveError:
        """The error for an archive without a member to stage: it says what there is instead."""
        patterns = " ".join(self._policy.include)
        what = "has no members at all"
        if self.entries:
            what = "has " + ", ".join(f"{show(e.name)} ({e.kind}, {e.size} bytes)" for e in self.listing[:20])
        more = self.entries - len(self.listing[:20])
        left_out = f"; {self._what_was_left_out()}" if self.left_out else ""
        return ArchiveError(
            f"no member matches {patterns}; the archive {what}"
            + (f" and {more} more" if more else "")
            + left_out,
            hint=self._where_to_look(),
            fault=ArchiveFault.NO_MATCH,
        )

    def _what_was_left_out(self) -> str:
        shown = ", ".join(show(name) for name in self.left_out[:_SHOWN])
        count = len(self.left_out) + self._more_left_out
        more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
        files = (
            "1 file that matches, but is no model,"
            if count == 1
            else f"{count} files that match, but are no models,"
        )
        return f"{files} left out ({', '.join(self._kinds_left_out)}): {shown}{more}"

    def _where_to_look(self) -> str:
        """The hint for an archive without a match; empty for the usual one."""
        if self.left_out:
            return (
                "pack the models themselves; a file that is meant all the same is staged when --include names it without a "
                "wildcard"
            )
        packed = next(
            (e.name for e in self.listing if e.kind == "file" and e.name.lower().endswith(_PACKED)), None
        )
        if packed is None:
            return ""
        return (
            f"the models may be one layer further in: unpack {show(packed)} and upload what is in it as a tar of its own, or "
            "check --include"
        )
