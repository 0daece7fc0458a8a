"""The stream itself: one task group connects the source to every branch, and ends when everything is durable."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

import anyio

from riva_stream.archive import (
    DEEP,
    ArchiveSummary,
    Extractor,
    Member,
    content_type_of,
    not_a_model,
    odd_for_a_model,
)
from riva_stream.destination import Destination
from riva_stream.errors import AccessDeniedError, ArchiveError, ArchiveFault, DigestMismatchError
from riva_stream.events import MemberFound, PhaseChanged, Resumed
from riva_stream.flow.buffers import Credits
from riva_stream.flow.digest import Digest, DigestRecord, HashLane
from riva_stream.flow.tee import Branch, tee
from riva_stream.layout import is_model
from riva_stream.naming import option
from riva_stream.pipeline.checkpoint import (
    Checkpointer,
    can_resume,
    extractor_options,
    find_resume_point,
)
from riva_stream.pipeline.copies import Outlets, SourceCopy
from riva_stream.pipeline.traced import TracedDigest, TracedRanges
from riva_stream.pipeline.unpack import StagedMember, Unpacker
from riva_stream.run import Run
from riva_stream.s3 import Bucket
from riva_stream.sink import Upload, Uploads
from riva_stream.source import PinnedRanges, PinnedSource, SourceReader

__all__ = ["Streamed", "stream"]

_MODEL_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Streamed:
    """The result of the stream: every part is durable; nothing is visible yet."""

    archive: Upload
    """For a bare model: the model's own upload."""
    digest: DigestRecord
    members: list[StagedMember]
    summary: ArchiveSummary | None
    """None for a bare model."""
    vouched_by: list[str]
    """The checksums that were compared with the stream and matched."""
    copy: SourceCopy
    """How the source's own object was made."""
    resumed_from: int | None = None
    """Byte of the source at which reading began; None: its start."""
    resumed_by: str | None = None
    """Proof of the bytes before it; see :class:`~riva_stream.pipeline.checkpoint.ResumePoint`."""


async def stream(  # noqa: C901, PLR0915 - the picture
    run: Run, source: PinnedSource, destination: Destination, copy: SourceCopy
) -> Streamed:
    """Move every byte, and verify what can be verified before anything becomes visible.

    Raises:
        ArchiveError: the archive is damaged, truncated, refused, or contains nothing that was asked for.
        DigestMismatchError: the bytes are not the expected ones, or not those that the source's store holds.
        StalledError: nothing moved for ``timeout`` seconds.
        NotCopiedError: the request demands a copy by the store, which does not copy, or not provably.
    """
    if source.size == 0:
        raise ArchiveError(f"{source.uri} is empty", hint="upload it again", fault=ArchiveFault.CUT)
    request, lanes, uploads = run.request, run.lanes, destination.uploads
    bare = is_model(source.key)
    part_size = run.part_size_for(source.size)
    shares = request.plan_for(source.size, run.most_parts)
    earlier = await find_resume_point(destination, source, copy.plan)
    start = earlier.offset if earlier else 0
    # Permissions are tested before bytes are moved: the archive's upload is created first.
    archive = await uploads.open(
        run.layout.of_source(source.filename),
        content_type=_MODEL_TYPE if bare else content_type_of(source.key),
        metadata=run.metadata("riva-model" if bare else "model-archive"),
        size=source.size,
    )
    if copy.plan is None:
        archive.skip(start // part_size)
    run.observer(PhaseChanged(phase="stream"))
    run.meter.begin(source.size, skipped=start, kept=start if copy.plan is None else 0, bare=bare)
    if earlier:
        run.observer(Resumed(offset=start, source_size=source.size, by=earlier.by))
    reader = SourceReader(
        Bucket(run.source_store, source.bucket, run.retrier),
        source,
        part_size,
        Credits(shares.read_share),
        lanes.source,
        lambda count: run.meter.add(fetched=count),
        run.observer,
        start,
    )
    every = request.checkpoint if can_resume(source.checksums, copy.plan) else 0
    # An archive gets no BLAKE3: nothing needs it, it takes 2 % of a run, and no resume could continue it.
    whole = earlier.digest if earlier else Digest(source.checksums.to_compute, with_blake3=bare)
    digest = TracedDigest(whole, kept=bool(every))
    outlets = Outlets(run, uploads, copy.plan, keeps_states=bool(every))
    of_source, ranges = outlets.of_source(archive)
    if earlier and earlier.compared and ranges:
        earlier.compared.resume(ranges)
    checkpointer = Checkpointer(
        destination,
        every,
        part_size,
        archive,
        digest,
        start,
        bare=bare,
        ranges=ranges,
        copied_by=copy.proven_by,
    )
    hashes, member_hashes = (HashLane(lane, checkpointer.moved) for lane in (lanes.hash, lanes.member_hash))
    unpacker = Unpacker(
        earlier.extractor if earlier and earlier.extractor else Extractor(**extractor_options(request)),
        shares,
        run.part_size_for,
        lambda member: _open_member(run, uploads, outlets, member, plain=unpacker.extractor.is_plain),
        member_hashes,
        lanes.extract,
        lambda count: run.meter.add(expanded=count),
        checkpointer,
        run.most_parts,
    )
    if earlier:
        await unpacker.resume(earlier)
        if bare:  # the documents report what is odd for a model, even after a resume
            _look_at_model(run, source, await _first_bytes(run, source))
    branches: list[Branch] = [partial(hashes.send, digest), of_source]
    if not bare:
        branches.append(unpacker.send)

    async def read() -> None:
        async for chunk in reader.chunks():
            if bare and chunk.offset == 0:
                _look_at_model(run, source, bytes(islice(chain.from_iterable(chunk.pieces), DEEP)))
            tee(chunk, branches)
        hashes.close()
        unpacker.close()

    async def unpack() -> None:
        if not bare:
            try:
                await unpacker.run()
            except ArchiveError as error:
                raise error.located(bucket=source.bucket, key=source.key)  # noqa: B904 - the very same error
        member_hashes.close()

    async with anyio.create_task_group() as writing:
        writing.start_soon(checkpointer.run)
        async with anyio.create_task_group() as lane_tasks:
            for _ in range(request.connections):
                lane_tasks.start_soon(reader.fetch)
                lane_tasks.start_soon(uploads.send_parts, checkpointer.moved)
            lane_tasks.start_soon(hashes.run)
            lane_tasks.start_soon(member_hashes.run)
            outlets.start(lane_tasks, checkpointer.moved)
            async with anyio.create_task_group() as producers:
                producers.start_soon(read)
                producers.start_soon(unpack)
            uploads.close()
            outlets.close()
        checkpointer.close()
    run.meter.tell()
    run.observer(PhaseChanged(phase="verify"))
    for warning in unpacker.summary.warnings if unpacker.summary else ():
        run.warn("archive", warning)
    record = digest.record()
    vouched = _verify(run, source, record, unpacker.summary)
    outlets.prove()
    return Streamed(
        archive,
        record,
        unpacker.members,
        unpacker.summary,
        vouched,
        copy,
        earlier.offset if earlier else None,
        earlier.by if earlier else None,
    )


async def _first_bytes(run: Run, source: PinnedSource) -> bytes:
    ranges = PinnedRanges(run.source_store, source, run.observer)

    async def ask() -> bytes:
        try:
            return await ranges.first(DEEP, source.version_id)
        except AccessDeniedError:
            if source.version_id is None:
                raise
        return await ranges.first(DEEP)  # a version needs its own permission; the ETag pins the object too

    return await run.retrier("GetObject", ask)


def _look_at_model(run: Run, source: PinnedSource, head: bytes) -> None:
    """Check the first bytes of a bare model: nothing else opens it.

    Raises:
        ArchiveError: no model begins like this.
    """
    if error := not_a_model(source.filename, head):
        raise error.located(bucket=source.bucket, key=source.key)
    if looks := odd_for_a_model(head):
        run.warn(
            "bare-model",
            f"{source.uri} is staged as one model, but it looks like {looks}: if it is an archive of models, its name has to "
            "end in .tar, .tar.gz or .tar.zst",
        )


async def _open_member(
    run: Run, uploads: Uploads, outlets: Outlets, member: Member, *, plain: bool
) -> tuple[Upload, Branch, TracedRanges | None]:
    upload = await uploads.open(
        run.layout.of_model(member.key_name),
        content_type=_MODEL_TYPE,
        metadata=run.metadata("riva-model"),
        size=member.size,
    )
    run.observer(MemberFound(name=member.name, key=upload.key, size=member.size))
    return upload, *outlets.of_member(upload, member, plain=plain)


def _verify(
    run: Run, source: PinnedSource, record: DigestRecord, summary: ArchiveSummary | None
) -> list[str]:
    """Compare the stream with every checksum of the source; return the names of those that match."""
    if record.size != source.size:
        raise DigestMismatchError(
            f"{record.size} bytes were read of {source.uri}, which has {source.size}",
            hint="run again; if it happens again, the store reports wrong sizes",
        )
    vouched: list[str] = []
    request, expected = run.request, run.request.expect_sha256
    if expected is not None and request.no_checksum:
        run.warn(
            "no-checksum",
            f"the SHA-256 of {source.uri} is {record.sha256}; it was not compared with the expected one ({option('no_checksum')})",
        )
    elif expected is not None:
        if record.sha256 != expected:
            raise DigestMismatchError(
                f"the SHA-256 of {source.uri} is {record.sha256}, not the expected {expected}",
                hint=f"check {option('expect_sha256', 'RIVA_ASR_MODEL_SHA256')}; nothing was staged",
            )
        vouched.append("sha256-expected")
    try:
        vouched += source.checksums.compare(record, uri=source.uri)
    except DigestMismatchError as error:
        # AWS documents when an ETag is an MD5; elsewhere it may be anything, so if the archive has a checksum of its
        # own a difference is only a warning.
        if (
            "md5" not in source.checksums.values
            or run.source_store.is_aws
            or summary is None
            or not summary.checksum
        ):
            raise
        run.warn("etag", f"the source's ETag looks like an MD5 but is not that of its bytes: {error.what}")
    if summary is not None and summary.checksum:
        vouched.append(summary.checksum)
    if not vouched:
        run.warn(
            "source-integrity",
            f"nothing vouches for the source's bytes: it has no checksum of its own; pass {option('expect_sha256')}",
        )
    return vouched
