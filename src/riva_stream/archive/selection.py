"""From tar entries to events: what is staged is passed on, everything is counted, some of it is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from riva_stream.archive.events import Event, ListedEntry, MemberData, MemberEnd, MemberStart, StagedMember
from riva_stream.archive.inside import Inside, InsideState
from riva_stream.archive.leftovers import HEAD, confirmed, suspicions
from riva_stream.archive.policy import Limits, Member, Policy, fault_of
from riva_stream.archive.snapshot import BOUNDED, Buffer, Count, Name, Strict, require
from riva_stream.archive.tar import Entry, Sink
from riva_stream.archive.text import shorten, show
from riva_stream.archive.walk import Step, WalkState
from riva_stream.errors import ArchiveError, ArchiveFault
from riva_stream.naming import option, raise_option

__all__ = ["Found", "Selection", "SelectionState"]

_WARNINGS = 100
_LEFT_OUT = 100
"""Maximum number of names of leftovers that are kept."""
_SHOWN = 20
_OF_LEFT_OUT = Field(fail_fast=True, max_length=_LEFT_OUT)
_PACKED = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2", ".zip", ".7z", ".rar")


@dataclass(eq=False, slots=True)
class _Suspect(Strict):
    """A file that matches, but may not be a model: its first bytes will decide."""

    entry: Entry
    head: Buffer = field(default_factory=bytearray)


@dataclass(eq=False, slots=True)
class Found(Strict):
    """What has been found so far: as much as is in the archive, up to the limits."""

    listing: Annotated[list[ListedEntry], BOUNDED] = field(default_factory=list)
    staged: Annotated[list[StagedMember], BOUNDED] = field(default_factory=list)
    left_out: Annotated[list[str], _OF_LEFT_OUT] = field(default_factory=list)
    """Names of members that were left out because they are not models; the first hundred."""

    def check(self, state: SelectionState, policy: Policy, limits: Limits) -> None:
        """Check that it is possible, and consistent with the selection that found it.

        Raises:
            InvalidSnapshotError: no archive leads to it.
        """
        require(len(self.listing) == min(state.entries, limits.listing), "the listing")
        members = self.selected(state.member)
        require(len({member.key_name for member in members}) == len(members), "a member that is there twice")
        require(len(members) <= limits.matching_members, "the members")
        index = offset = -1
        for member in members:
            base = member.name.rpartition("/")[2]
            require(
                member.key_name == base
                and policy.matches(member.name)
                and not fault_of(member.name, member.key_name),
                "the name of a member",
            )
            require(
                index < member.index < state.entries and offset < member.offset, "the order of the members"
            )
            require(member.offset < (member.data_offset or 1 << 63), "the place of a member")
            index, offset = member.index, member.offset
        inside = len(state.inside.files) if state.inside is not None else 0
        require(self.inside + inside <= limits.inside, "what was noted inside")

    def selected(self, opened: Member | None) -> list[Member]:
        """The members selected so far, including the open one."""
        return [*(staged.member for staged in self.staged), *([opened] if opened is not None else [])]

    @property
    def inside(self) -> int:
        """Number of kept names of files inside the members."""
        return sum(len(staged.inside.files) for staged in self.staged)


@dataclass(eq=False, slots=True)
class SelectionState(Strict):
    """The state of the selection, apart from what it found."""

    entries: Count = 0
    holes: Count = 0
    """Zero bytes filled in for sparse members so far."""
    last: Name = ""
    """The name of the latest entry."""
    member: Member | None = None
    """The member that has begun."""
    inside: InsideState | None = None
    suspect: _Suspect | None = None
    warnings: Annotated[list[Name], Field(fail_fast=True, max_length=_WARNINGS)] = field(default_factory=list)
    more_warnings: Count = 0
    more_left_out: Count = 0
    kinds_left_out: Annotated[list[str], _OF_LEFT_OUT] = field(default_factory=list)

    def check(self, walk: WalkState, limits: Limits) -> None:
        """Check that it is possible, and consistent with the walk that it belongs to.

        Raises:
            InvalidSnapshotError: no archive leads to it.
        """
        require(self.entries <= limits.members, "the count of entries")
        member, suspect, inside, entry = self.member, self.suspect, self.inside, walk.entry
        require(
            (member is None) == (inside is None) and (member is None or suspect is None), "the open member"
        )
        if member is None and suspect is None:
            return
        open_steps = {Step.DATA, Step.OLD_MAP, Step.NEW_MAP}
        require(entry is not None and walk.step in open_steps, "a member without data")
        written = walk.written if walk.step is Step.DATA else 0
        if entry is not None and suspect is not None:
            require(suspect.entry == entry and suspicions(entry.name), "a suspect")
            require(len(suspect.head) == written < min(HEAD, max(1, entry.size)), "the head of a suspect")
        if entry is not None and member is not None and inside is not None:
            described = (entry.name, entry.size, entry.index, entry.offset)
            require((member.name, member.size, member.index, member.offset) == described, "the open member")
            require(entry.offset + entry.size <= limits.expanded_bytes, "its size")
            inside.check(member, limits.header_bytes)
            require(inside.seen == written, "what was seen of the open member")


class Selection(Sink):
    """The :class:`~riva_stream.archive.tar.Sink` of the outer tar.

    Args:
        include: shell patterns of the members to stage.
        limits: what the archive may demand.
        state: the state of an earlier instance.
        found: what that one had found.
    """

    def __init__(
        self,
        include: Sequence[str],
        limits: Limits,
        state: SelectionState | None = None,
        found: Found | None = None,
    ) -> None:
        self._limits = limits
        self.state = SelectionState() if state is None else state
        self.found = Found() if found is None else found
        selected = self.found.selected(self.state.member)
        self._policy = Policy(include, limits, {member.key_name: member.name for member in selected})
        self._noted = self.found.inside
        self._events: list[Event] = []
        self._inside: Inside | None = None
        if self.state.member is not None:
            self._inside = self._look_inside(self.state.member, self.state.inside)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was left out, then the first hundred remarks, and how many more there were."""
        left_out = (self._what_was_left_out(),) if self.found.left_out else ()
        more = (f"and {self.state.more_warnings} more warnings",) if self.state.more_warnings else ()
        return (*left_out, *self.state.warnings, *more)

    def take(self) -> list[Event]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def entry(self, entry: Entry) -> bool:
        """Note a new entry; return whether it is staged.

        Raises:
            ArchiveError: there are too many, or it matches and cannot be staged.
        """
        self.state.entries += 1
        self.state.last = entry.name
        if self.state.entries > self._limits.members:
            raise ArchiveError(
                f"the archive has more than {self._limits.members} entries; {show(entry.name)} is one too many",
                hint=raise_option("max_members"),
                fault=ArchiveFault.LIMIT,
            )
        if len(self.found.listing) < self._limits.listing:
            self.found.listing.append(ListedEntry(shorten(entry.name), entry.size, entry.kind))
        matches = entry.kind == "file" and self._policy.matches(entry.name)
        suspected = suspicions(entry.name) if matches else ()
        if suspected and not self._policy.names(entry.name):
            self.state.suspect = _Suspect(entry)
            return True
        return self._begin(entry)

    def _begin(self, entry: Entry) -> bool:
        self.state.member = self._policy.select(entry)
        if self.state.member is None:
            return False
        if entry.offset + self.state.holes + entry.size > self._limits.expanded_bytes:
            raise ArchiveError(
                f"member {show(entry.name)} of {entry.size} bytes takes the archive over {self._limits.expanded_bytes} bytes",
                hint=raise_option("max_expanded"),
                fault=ArchiveFault.LIMIT,
            )
        self._inside = self._look_inside(self.state.member)
        self.state.inside = self._inside.state
        self._events.append(MemberStart(self.state.member))
        return True

    def _look_inside(self, member: Member, state: InsideState | None = None) -> Inside:
        return Inside(member, self._limits.header_bytes, state, names=self._limits.inside - self._noted)

    def data(self, view: memoryview) -> None:
        """Take bytes of the member."""
        suspect = self.state.suspect
        if suspect:
            before = bytes(suspect.head)
            suspect.head += view[: HEAD - len(suspect.head)]
            if len(suspect.head) == min(HEAD, suspect.entry.size):
                self._decide(suspect, (before, view))
        elif self._inside:
            self._inside.feed(view)
            self._events.append(MemberData(view))

    def _decide(self, suspect: _Suspect, pieces: tuple[bytes, memoryview] | None = None) -> None:
        """Leave the suspect out, or begin the member with the bytes read so far."""
        self.state.suspect = None
        name = suspect.entry.name
        suspected = suspicions(name)
        found = confirmed(suspected, bytes(suspect.head), suspect.entry.size)
        if found:
            if found not in self.state.kinds_left_out:
                self.state.kinds_left_out.append(found)
            if len(self.found.left_out) < _LEFT_OUT:
                self.found.left_out.append(shorten(name))
            else:
                self.state.more_left_out += 1
            return
        self.warn(
            f"member {show(name)} is staged: by its name it could be {suspected[0].what}, by its bytes it is not"
        )
        self._begin(suspect.entry)
        for piece in pieces or ():
            if piece:
                self.data(memoryview(piece))

    def hole(self, count: int) -> None:
        """Note that ``count`` zeros are filled in for a sparse member."""
        self.state.holes += count

    def end(self) -> None:
        """Note that the member is complete.

        Raises:
            ArchiveError: it is a model without bytes, or of nothing but zeros.
        """
        if self.state.suspect:  # it has no bytes
            self._decide(self.state.suspect)
        if self.state.member is None or self._inside is None:  # left out
            return
        report = self._inside.finish()
        for text in report.warnings:
            self.warn(text)
        self._noted += len(report.files)
        self.found.staged.append(StagedMember(self.state.member, report))
        self._events.append(MemberEnd(self.state.member, report))
        self.state.member = self.state.inside = self._inside = None

    def warn(self, text: str) -> None:
        """Keep a remark for the summary."""
        if len(self.state.warnings) < _WARNINGS:
            self.state.warnings.append(text)
        else:
            self.state.more_warnings += 1

    def nothing_matched(self) -> ArchiveError:
        """The error for an archive without a member to stage: it lists what the archive has instead."""
        patterns = " ".join(self._policy.include)
        shown = self.found.listing[:_SHOWN]
        listed = ", ".join(f"{show(e.name)} ({e.kind}, {e.size} bytes)" for e in shown)
        what = f"has {listed}" if self.state.entries else "has no members at all"
        more = self.state.entries - len(shown)
        left_out = f"; {self._what_was_left_out()}" if self.found.left_out else ""
        return ArchiveError(
            f"no member matches {patterns}; the archive {what}"
            + (f" and {more} more" if more else "")
            + left_out,
            hint=self._where_to_look(),
            fault=ArchiveFault.NO_MATCH,
        )

    def _what_was_left_out(self) -> str:
        shown = ", ".join(show(name) for name in self.found.left_out[:_SHOWN])
        count = len(self.found.left_out) + self.state.more_left_out
        more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
        files = (
            "1 file that matches but is not a model,"
            if count == 1
            else f"{count} files that match but are not models,"
        )
        return f"{files} left out ({', '.join(self.state.kinds_left_out)}): {shown}{more}"

    def _where_to_look(self) -> str:
        """The hint for an archive without a match; empty for the usual one."""
        if self.found.left_out:
            return f"pack the models themselves; to stage such a file, name it in {option('include')} without a wildcard"
        files = [e.name for e in self.found.listing if e.kind == "file"]
        near = next(filter(self._policy.matches_but_for_case, files), None)
        if near is not None:
            return f"case matters: name {show(near)} with {option('include')} as it is written"
        packed = next((name for name in files if name.lower().endswith(_PACKED)), None)
        if packed is None:
            return ""
        return (
            f"the models may be one layer further in: unpack {show(packed)} and upload its content as a tar, or "
            f"check {option('include')}"
        )
