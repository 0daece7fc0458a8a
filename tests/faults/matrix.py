"""The cells of the fault matrix, as data.

A cell is one run of `stage` with one fault: a situation to begin with, the requests that are struck, which of them
(the first, the middle, the last), the fault, and the exit codes that are right. What holds after every cell,
whatever its exit, stands in `tests.faults.cells`. ``python -m tests.faults`` prints the matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from tests.staging import PREFIX, SOURCE_KEY
from tests.support.faults import (
    Drip,
    FlipBit,
    IgnoreRange,
    Refuse,
    Reset,
    Rewrite,
    ShortBody,
    Stall,
    cut,
)
from tests.support.faults import Fault as Strike

__all__ = ["ALL", "CELLS", "ELSEWHERE", "REPRESENTATIVE", "Cell", "Fault", "Target", "table"]

Situation = Literal["fresh", "replace", "again", "refused", "resume", "copied"]
At = Literal["only", "first", "middle", "last"]
Lasts = Literal["once", "twice", "on"]

MARKER: Final = PREFIX + "staging_complete.txt"
_DATA: Final = PREFIX + "[sm]o[ud]*"  # source/… and models/…, the objects that go in parts
_DOCUMENT: Final = PREFIX + "[acu]*"
_OBJECT: Final = PREFIX + "[!.]*"
_PROBE: Final = PREFIX + ".riva-stream/probe*"
_JOURNAL: Final = PREFIX + ".riva-stream/journal.json"


@dataclass(frozen=True, slots=True)
class Target:
    """The requests that a fault strikes."""

    name: str
    operation: str
    key: str
    situation: Situation = "fresh"
    count: str = "many"
    """How many of them a run makes, so that first, middle and last differ: ``one``, ``two``,
    ``many``, or ``some`` where the number differs from run to run."""
    body: str = ""
    """What there is to break: ``sent``, ``xml`` or nothing."""

    @property
    def places(self) -> tuple[At, ...]:
        places: dict[str, tuple[At, ...]] = {"one": ("only",), "two": ("first", "last"), "some": ("first",)}
        return places.get(self.count, ("first", "middle", "last"))

    @property
    def is_head(self) -> bool:
        """Whether its answers have no body, so that no error code can be told."""
        return self.operation == "HeadObject"


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a request, and for how long."""

    name: str
    strikes: tuple[Strike, ...]
    lasts: Lasts = "once"
    """``once``, ``twice`` in a row, or from that request ``on`` for ever."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run with one fault."""

    target: Target
    fault: Fault
    at: At
    exits: frozenset[int]
    timeout: float = 60.0
    """Of the request; small where a stall is to be noticed."""
    leaves_open: bool = False
    """The fault itself keeps uploads from being aborted; only the rerun can."""

    @property
    def id(self) -> str:
        return f"{self.target.name} | {self.fault.name} | {self.at}"


# ---- targets

_ONE, _TWO = "one", "two"

SOURCE_HEAD = Target("source HEAD", "HeadObject", SOURCE_KEY, count=_ONE)
LISTING = Target("destination listing", "ListObjectsV2", "", count=_TWO, body="xml")
JOURNAL_HEAD = Target("journal HEAD", "HeadObject", _JOURNAL)
JOURNAL_PUT = Target("journal PUT", "PutObject", _JOURNAL, body="sent")
JOURNAL_DELETE = Target("journal DELETE", "DeleteObject", _JOURNAL, count=_ONE)
PROBE_CREATE = Target("probe Create", "CreateMultipartUpload", _PROBE, count="some", body="xml")
PROBE_PART = Target("probe UploadPart", "UploadPart", _PROBE)
PROBE_ABORT = Target("probe Abort", "AbortMultipartUpload", _PROBE, count="some")
UPLOADS = Target("listing of uploads", "ListMultipartUploads", "", body="xml")
RANGE = Target("source range", "GetObject", SOURCE_KEY)
CREATE = Target("Create", "CreateMultipartUpload", _OBJECT, body="xml")
PART = Target("UploadPart", "UploadPart", _DATA, body="sent")
COMPLETE = Target("Complete", "CompleteMultipartUpload", _DATA, body="xml")
DOCUMENT_PART = Target("document UploadPart", "UploadPart", _DOCUMENT, body="sent")
DOCUMENT_COMPLETE = Target("document Complete", "CompleteMultipartUpload", _DOCUMENT)
HEAD = Target("object HEAD", "HeadObject", _OBJECT + "[!t]")  # of all but the markers
MARKER_PART = Target("marker UploadPart", "UploadPart", MARKER, count=_ONE)
MARKER_COMPLETE = Target("marker Complete", "CompleteMultipartUpload", MARKER, count=_ONE, body="xml")
MARKER_READ = Target("marker GET", "GetObject", MARKER, count=_ONE)
OLD_DOCUMENT = Target("old document GET", "GetObject", _OBJECT, "replace")
OLD_MARKER = Target("old marker DELETE", "DeleteObject", MARKER, "replace", count=_ONE)
STALE = Target("stale DELETE", "DeleteObject", _DATA, "replace")
NEW_COMPLETE = Target("Complete over an old staging", "CompleteMultipartUpload", _DATA, "replace")
NEW_MARKER = Target(
    "marker Complete over an old staging", "CompleteMultipartUpload", MARKER, "replace", count="some"
)
CONFIRM = Target("HEAD of what is staged", "HeadObject", _OBJECT, "again")
READ_AGAIN = Target("GET of what is staged", "GetObject", _OBJECT, "again")
ABORT = Target("Abort after a refusal", "AbortMultipartUpload", _OBJECT, "refused")
JOURNAL_GET = Target("GET of the journal that is left", "GetObject", _JOURNAL, "resume", count="some")
LEFT_UPLOADS = Target("listing of uploads that are left", "ListMultipartUploads", "", "resume", body="xml")
LEFT_PARTS = Target("ListParts of what is left", "ListParts", _DATA, "resume", body="xml")
LEFT_ABORT = Target("Abort of what is left", "AbortMultipartUpload", _OBJECT, "resume", count=_ONE)
LEFT_PART = Target("UploadPart of what is left", "UploadPart", _DATA, "resume", count="some")
COPY = Target("UploadPartCopy", "UploadPartCopy", _DATA, "copied", body="xml")

FRESH: Final = (
    SOURCE_HEAD,
    LISTING,
    JOURNAL_HEAD,
    JOURNAL_PUT,
    JOURNAL_DELETE,
    PROBE_CREATE,
    PROBE_PART,
    PROBE_ABORT,
    UPLOADS,
    RANGE,
    CREATE,
    PART,
    COMPLETE,
    DOCUMENT_PART,
    DOCUMENT_COMPLETE,
    HEAD,
    MARKER_PART,
    MARKER_COMPLETE,
    MARKER_READ,
)
LATER: Final = (
    OLD_DOCUMENT,
    OLD_MARKER,
    STALE,
    NEW_COMPLETE,
    NEW_MARKER,
    CONFIRM,
    READ_AGAIN,
    ABORT,
    JOURNAL_GET,
    LEFT_UPLOADS,
    LEFT_PARTS,
    LEFT_ABORT,
    LEFT_PART,
    COPY,
)
ALL: Final = FRESH + LATER

# ---- faults that another attempt does not meet


def _refused(code: str, lasts: Lasts = "once", **options: Any) -> Fault:
    words = {"once": "", "twice": ", twice", "on": ", from then on"}[lasts]
    status = Refuse(code).http_status
    return Fault(f"{status} {code}{words}", (Refuse(code, **options),), lasts)


CONNECTION: Final = (
    Fault("reset before the store has it", (Reset("request"),)),
    Fault("closed before the store has it", (Reset("request", rst=False),)),
    Fault("lost answer", (Reset("response"),)),
)
SERVER: Final = (
    _refused("InternalError"),
    _refused("SlowDown"),
    _refused("SlowDown", "twice"),
)
TOLD: Final = (_refused("RequestTimeout"), _refused("RequestTimeTooSkewed"))
"""Known by their code alone, which an answer to HEAD cannot carry."""
EXECUTED: Final = (Fault("500 InternalError, though done", (Refuse("InternalError", executed=True),)),)
SENT: Final = (
    Fault("reset in the body that is sent", (Reset("request-body", 100),)),
    Fault("closed in the body that is sent", (Reset("request-body", 100, rst=False),)),
    Fault("a bit flips on the way to the store", (FlipBit("request", 100),)),
    _refused("BadDigest"),
    _refused("OperationAborted"),
    _refused("XAmzContentSHA256Mismatch"),
)
XML: Final = (
    Fault("answer cut at byte 60", (cut(60),)),
    Fault("answer reset at byte 60", (Reset("response-body", 60),)),
    Fault("answer cannot be parsed", (FlipBit("response", 2, 0x40),)),
    Fault("answer one byte short", (ShortBody(1),)),
)
BODY: Final = (
    Fault("body cut before its first byte", (cut(0),)),
    Fault("body cut in the middle", (cut(20_000),)),
    Fault("body reset in the middle", (Reset("response-body", 20_000),)),
    Fault("body one byte short", (ShortBody(1),)),
    Fault("body one byte short, and said so", (ShortBody(1, honest=True),)),
    Fault("200 in place of 206", (Rewrite(status=200, remove=["Content-Range"]),)),
    Fault("200 with the whole object", (IgnoreRange(),)),
    Fault("no Content-Range", (Rewrite(remove=["Content-Range"]),)),
    Fault("another Content-Range", (Rewrite(shift_range=1),)),
    Fault("slow drip", (Drip(256 << 10, 0.02),)),
)
COMPLETES: Final = (
    Fault("200 with InternalError inside", (Refuse("InternalError", status=200),)),
    Fault(
        "200 with InternalError inside, though done", (Refuse("InternalError", status=200, executed=True),)
    ),
    Fault("200 with SlowDown inside, twice", (Refuse("SlowDown", status=200),), "twice"),
    _refused("ConditionalRequestConflict"),
)
NO_ETAG: Final = Fault("answer without an ETag", (Rewrite(remove=["ETag"]),))
STALLS: Final = (
    Fault("stall before the store has it", (Stall("request"),)),
    Fault("stall before the answer", (Stall("response"),)),
)
STALL_SENT: Final = Fault("stall in the body that is sent", (Stall("request-body", 100),))
STALL_READ: Final = Fault("stall in the body that is read", (Stall("response-body", 20_000),))

# ---- faults that end the run

GONE = _refused("NoSuchUpload")
THERE_FIRST = _refused("PreconditionFailed")
FLIPPED = Fault("a bit flips on the way from the store", (FlipBit("response", 1000),))
OTHER_ETAG = Fault("another ETag", (Rewrite(headers={"ETag": '"0123456789abcdef0123456789abcdef"'}),))
OTHER_SIZE = Fault("another Content-Length", (Rewrite(headers={"Content-Length": "7"}),))

_READING: Final = frozenset({"GetObject", "ListObjectsV2", "ListMultipartUploads", "ListParts"})
_SAFE: Final = frozenset({0, 65, 75})


def _strike(
    targets: tuple[Target, ...], faults: tuple[Fault, ...], *exits: int, **options: Any
) -> Iterator[Cell]:
    """A cell for each of *targets*, *faults* and places."""
    for target in targets:
        # what a run without any fault ends in
        right = frozenset(65 if target is ABORT and code == 0 else code for code in exits)
        for fault in faults:
            for at in target.places:
                yield Cell(target, fault, at, right, **options)


def _survived() -> Iterator[Cell]:
    """Faults after which a run goes on as if nothing had been, or, after some, stops with exit 75."""
    bodied = tuple(target for target in ALL if not target.is_head)
    mutating = tuple(t for t in bodied if t.operation not in _READING)
    sent = tuple(target for target in ALL if target.body == "sent")
    xml = tuple(target for target in ALL if target.body == "xml")

    yield from _strike(ALL, CONNECTION + SERVER, 0)
    yield from _strike(bodied, TOLD, 0)
    yield from _strike(mutating, EXECUTED, 0)
    yield from _strike(sent, SENT, 0)
    yield from _strike(xml, XML, 0)
    yield from _strike((RANGE,), BODY, 0)
    yield from _strike((COMPLETE, MARKER_COMPLETE, NEW_COMPLETE), COMPLETES, 0)
    yield from _strike((COPY,), COMPLETES[:3], 0)
    yield from _strike((PART,), (NO_ETAG,), 0)
    yield from _strike((RANGE, CREATE, PART, COMPLETE, JOURNAL_PUT), (_refused("ExpiredToken"),), 0)

    # A connection on which nothing moves: given up and tried again, or the run ends by --timeout.
    stalled = (RANGE, CREATE, PART, COMPLETE, HEAD, MARKER_COMPLETE, JOURNAL_PUT, COPY)
    yield from _strike(stalled, STALLS, 0, 75, timeout=5.0)
    yield from _strike((PART,), (STALL_SENT,), 0, 75, timeout=5.0)
    yield from _strike((RANGE,), (STALL_READ,), 0, 75, timeout=5.0)


def _ended() -> Iterator[Cell]:
    """Faults that end a run, each with its exit code."""
    # The store fails for good: exit 75. What only cleans up after a run does not change how it ends.
    cleaning = (PROBE_ABORT, ABORT, JOURNAL_DELETE)  # the probe's first: see below
    lasting = tuple(target for target in ALL if target not in {*cleaning, JOURNAL_HEAD})
    for_good = (_refused("InternalError", "on"), _refused("SlowDown", "on"))
    yield from _strike(lasting, for_good, 75)
    # Who cannot look at the journal any more cannot tell whose it is, and leaves it.
    yield from _strike((JOURNAL_HEAD,), for_good, 0, 75, leaves_open=True)
    yield from _strike((RANGE, PART), (Fault("reset, from then on", (Reset("request"),), "on"),), 75)
    yield from _strike(cleaning, for_good[:1], 0, leaves_open=True)

    # Somebody else has taken over: exit 75.
    yield from _strike((PART, COMPLETE, DOCUMENT_COMPLETE, MARKER_COMPLETE, LEFT_PART, COPY), (GONE,), 75)
    # A condition that is refused though it holds is the store's mistake: it is done without.
    yield from _strike((COMPLETE, MARKER_COMPLETE, JOURNAL_PUT), (THERE_FIRST,), 0, 75)
    yield from _strike((COMPLETE,), (_refused("InvalidPart"),), 0, 75)
    yield from _strike((LEFT_PARTS,), (GONE,), 0)

    # What the store does not copy, though the source is unchanged, is sent.
    uncopied = (
        THERE_FIRST,
        _refused("NoSuchKey"),
        _refused("NotImplemented"),
        _refused("AccessDenied", "on"),
    )
    yield from _strike((COPY,), uncopied, 0)

    # Refused for good, each with its own exit code. Some rights can be done without.
    denied = _refused("AccessDenied", "on")
    spared = (LISTING, UPLOADS, LEFT_UPLOADS)
    forbidden = tuple(
        t
        for t in ALL
        if t not in {*cleaning, *spared, PROBE_PART, JOURNAL_HEAD, LEFT_ABORT, LEFT_PARTS, COPY}
    )
    yield from _strike(forbidden, (denied,), 77)
    # The last of them asks for the largest number of a part: refused as any other is, it is not about the number.
    yield from _strike((PROBE_PART,), (denied,), 0, 77)
    yield from _strike((JOURNAL_HEAD,), (denied,), 0, 77, leaves_open=True)
    yield from _strike((LEFT_ABORT, LEFT_PARTS), (denied,), 0, 77)
    yield from _strike(spared, (denied,), 0, leaves_open=True)
    yield from _strike(cleaning[1:], (denied,), 0, leaves_open=True)
    # The right to abort is one that a run needs, and the probe's is the first that is aborted.
    yield from _strike((PROBE_ABORT,), (denied,), 77, leaves_open=True)
    keys = (_refused("InvalidAccessKeyId", "on"), _refused("SignatureDoesNotMatch", "on"))
    yield from _strike((LISTING, RANGE, CREATE, PART, COMPLETE, MARKER_COMPLETE), keys, 78)
    yield from _strike((RANGE, PART, COMPLETE), (_refused("ExpiredToken", "on"),), 75, 78)
    elsewhere = _refused("PermanentRedirect", "on", headers={"x-amz-bucket-region": "eu-west-3"})
    yield from _strike((SOURCE_HEAD, LISTING, CREATE), (elsewhere,), 78)
    yield from _strike((LISTING, CREATE, PART), (_refused("NoSuchBucket", "on"),), 78)
    yield from _strike((RANGE,), (_refused("InvalidObjectState", "on"),), 66)
    # A HEAD still shows it: the store contradicts itself.
    yield from _strike((RANGE,), (_refused("NoSuchKey", "on"),), 75)
    yield from _strike((SOURCE_HEAD,), (_refused("NoSuchKey", "on"),), 66)

    # The bytes, or the object, are not what they should be: exit 65.
    yield from _strike((RANGE,), (FLIPPED, OTHER_ETAG), 65)
    # A condition that fails though the source is unchanged is the store's fault, and is done without.
    yield from _strike((RANGE,), (_refused("PreconditionFailed"),), 0)
    # The first time it is a slip of something on the way: see BODY.
    yield from _strike((RANGE,), (_for_good(BODY[6]),), 78)
    yield from _strike((RANGE,), (_refused("InvalidRange"),), 65)
    yield from _strike((CONFIRM,), (OTHER_ETAG, OTHER_SIZE), 65)
    # Of what was just written one answer alone is not believed.
    yield from _strike((HEAD,), (OTHER_ETAG, OTHER_SIZE), 0)
    yield from _strike((HEAD,), (_for_good(OTHER_SIZE),), 65)
    # What is told to be another's is not deleted.
    yield from _strike((HEAD,), (_for_good(OTHER_ETAG),), 65, leaves_open=True)
    # The answers lie, the store does not: anything that is safe.
    flip = Fault("a bit flips on the way from the store", (FlipBit("response", 5),))
    yield from _strike((MARKER_READ,), (flip,), *_SAFE)
    yield from _strike((JOURNAL_GET,), (flip, Fault("cut, and said so", (ShortBody(40, honest=True),))), 0)
    yield from _strike((PART, COMPLETE, DOCUMENT_PART), (OTHER_ETAG,), *_SAFE)
    yield from _strike((HEAD,), (_refused("NoSuchKey"),), *_SAFE)


def _for_good(fault: Fault) -> Fault:
    return replace(fault, name=f"{fault.name}, from then on", lasts="on")


def _representative(cells: tuple[Cell, ...]) -> Iterator[Cell]:
    """One cell for each fault, such that all kinds of request come in, and all places in turn."""
    by_fault: dict[str, list[Cell]] = {}
    for cell in cells:
        by_fault.setdefault(cell.fault.name, []).append(cell)
    targets = set[Target]()
    # A fault that can strike few kinds of request chooses first.
    for turn, fits in enumerate(sorted(by_fault.values(), key=lambda some: len({c.target for c in some}))):
        target = next((cell.target for cell in fits if cell.target not in targets), fits[0].target)
        targets.add(target)
        places = [cell for cell in fits if cell.target is target]
        # how many requests a run makes of what another has left depends on when that one was stopped, so only the
        # first of them is sure to be met
        yield places[0 if target.situation == "resume" else turn % len(places)]
    for target in ALL:
        if target not in targets:
            yield next(cell for cell in cells if cell.target is target)


CELLS: Final = (*_survived(), *_ended())
REPRESENTATIVE: Final = tuple(_representative(CELLS))
ELSEWHERE: Final = tuple(
    cell
    for cell in CELLS
    if (cell.at in {"only", "last"} or cell.target.count == "some")
    and (cell.target.name, cell.fault.name)
    in {
        (PART.name, "a bit flips on the way to the store"),
        (PART.name, "lost answer"),
        (RANGE.name, "body cut in the middle"),
        (CREATE.name, "lost answer"),
        (COMPLETE.name, "lost answer"),
        (COMPLETE.name, "200 with InternalError inside, though done"),
        (DOCUMENT_PART.name, "a bit flips on the way to the store"),
        (MARKER_COMPLETE.name, "lost answer"),
        (MARKER_COMPLETE.name, "409 ConditionalRequestConflict"),
        (MARKER_COMPLETE.name, "412 PreconditionFailed"),
        (NEW_MARKER.name, "500 InternalError, though done"),
        (JOURNAL_PUT.name, "lost answer"),
        (JOURNAL_PUT.name, "412 PreconditionFailed"),
        (LEFT_PART.name, "lost answer"),
    }
)
"""What moto, LocalStack and SeaweedFS are asked as well: conditional writes and checksums, which the gateway ignores."""


def table() -> str:
    """The matrix in Markdown: a row for each fault and exit, a column for what it strikes, and the counts."""
    rows: dict[tuple[str, str], list[Cell]] = {}
    for cell in CELLS:
        exits = " or ".join(map(str, sorted(cell.exits)))
        rows.setdefault((cell.fault.name, exits), []).append(cell)
    lines = ["| fault | exit | requests | cells |", "|---|---|---|---|"]
    for (fault, exits), cells in rows.items():
        struck = list(dict.fromkeys(cell.target.name for cell in cells))
        where = "any" if {t.name for t in ALL} <= set(struck) | {ABORT.name} else ", ".join(struck)
        lines.append(f"| {fault} | {exits} | {where} | {len(cells)} |")
    faults = len({cell.fault.name for cell in CELLS})
    lines += ["", f"{len(CELLS)} cells: {faults} faults on {len(ALL)} kinds of request."]
    lines += ["", "| request | where | struck | cells |", "|---|---|---|---|"]
    for target in ALL:
        count = sum(cell.target is target for cell in CELLS)
        lines.append(f"| {target.name} | {target.situation} | {', '.join(target.places)} | {count} |")
    return "\n".join(lines)
