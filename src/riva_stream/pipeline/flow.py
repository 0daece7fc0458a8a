"""The stream itself: one task group wires the source to every branch, and ends when all of it is durable."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

import anyio

from riva_stream.archive import ArchiveSummary, Extractor, Limits, Member
from riva_stream.buffers import Credits
from riva_stream.digest import Digest, DigestRecord, HashLane
from riva_stream.errors import ArchiveError, ArchiveFault, DigestMismatchError
from riva_stream.events import MemberFound, PhaseChanged
from riva_stream.pipeline.copies import Outlets, SourceCopy
from riva_stream.pipeline.unpack import StagedMember, Unpacker
from riva_stream.run import Run
from riva_stream.s3 import Bucket
from riva_stream.sink import Upload, Uploads
from riva_stream.source import PinnedSource, SourceReader
from riva_stream.tee import Branch, tee

__all__ = ["Streamed", "archive_key", "stream"]

_MODEL_TYPE = "application/octet-stream"
_ARCHIVE_TYPES = {".tar": "application/x-tar", ".zst": "application/zstd", ".tzst": "application/zstd"}


@dataclass(frozen=True, slots=True)
class Streamed:
    """All bytes have gone through and every part is durable; nothing is visible yet."""

    archive: Upload
    """For a bare model: the model's own upload."""
    digest: DigestRecord
    members: list[StagedMember]
    summary: ArchiveSummary | None
    """None for a bare model."""
    vouched_by: list[str]
    """What was compared with the stream and agreed."""
    copy: SourceCopy
    """How the source's own object was made."""


def is_bare_model(source: PinnedSource) -> bool:
    """Whether the source is a ``.riva`` itself, not an archive of them."""
    return source.key.endswith(".riva")


def archive_key(run: Run, source: PinnedSource) -> str:
    """Where the source's own bytes go."""
    folder = "models" if is_bare_model(source) else "source"
    return f"{run.request.prefix}{folder}/{source.filename}"


async def stream(  # noqa: C901 - it is the picture
    run: Run, source: PinnedSource, uploads: Uploads, copy: SourceCopy
) -> Streamed:
    """Move every byte, and verify what can be verified before anything becomes visible.

    Raises:
        ArchiveError: the archive is damaged, cut, refused, or holds nothing that was asked for.
        DigestMismatchError: the bytes are not those that were expected, or not those the source's store holds.
        StalledError: nothing moved for ``timeout`` seconds.
        NotCopiedError: the store was to copy the source, and does not, or nothing proves that it did.
    """
    if source.size == 0:
        raise ArchiveError(f"{source.uri} is empty", hint="upload the archive again", fault=ArchiveFault.CUT)
    request, lanes = run.request, run.lanes
    bare = is_bare_model(source)
    part_size = run.part_size_for(source.size)
    shares = request.plan_for(source.size, run.most_parts)
    # Rights are tried before bytes are moved: the archive's upload is the first thing there is.
    archive = await uploads.open(
        archive_key(run, source),
        content_type=_MODEL_TYPE
        if bare
        else _ARCHIVE_TYPES.get(PurePosixPath(source.key).suffix, "application/gzip"),
        metadata=run.metadata("riva-model" if bare else "model-archive"),
        size=source.size,
    )
    run.observer(PhaseChanged(phase="stream"))
    run.meter.source_size = source.size
    reader = SourceReader(
        Bucket(run.origin, source.bucket, run.retrier),
        source,
        part_size,
        Credits(shares.read_share),
        lanes.source,
        lambda count: run.meter.add(fetched=count),
        run.observer,
    )
    digest = Digest(source.vouchers.to_compute)
    hashes, member_hashes = HashLane(lanes.hash), HashLane(lanes.member_hash)
    outlets = Outlets(run, uploads, copy.plan)
    unpacker = Unpacker(
        Extractor(
            include=request.include,
            limits=Limits(
                members=request.max_members,
                matching_members=request.max_models,
                header_bytes=request.max_header_bytes,
                expanded_bytes=request.max_expanded,
                ratio=request.max_ratio,
                streams=request.max_streams,
                zstd_window=request.max_zstd_window,
            ),
            allow_missing_end=request.allow_missing_end,
        ),
        shares,
        run.part_size_for,
        lambda member: _open_member(run, uploads, outlets, member, plain=unpacker.extractor.is_plain),
        member_hashes,
        lanes.extract,
        lambda count: run.meter.add(expanded=count),
        run.most_parts,
    )
    branches: list[Branch] = [partial(hashes.send, digest), outlets.of_source(archive)]
    if not bare:
        branches.append(unpacker.send)

    async def read() -> None:
        async for chunk in reader.chunks():
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

    async def lane_group() -> None:
        async with anyio.create_task_group() as lane_tasks:
            for _ in range(request.connections):
                lane_tasks.start_soon(reader.fetch)
                lane_tasks.start_soon(uploads.send_parts)
            lane_tasks.start_soon(hashes.run)
            lane_tasks.start_soon(member_hashes.run)
            outlets.start(lane_tasks)
            async with anyio.create_task_group() as producers:
                producers.start_soon(read)
                producers.start_soon(unpack)
            uploads.close()
            outlets.close()

    await lane_group()
    run.meter.tell()
    run.observer(PhaseChanged(phase="verify"))
    for warning in unpacker.summary.warnings if unpacker.summary else ():
        run.warn("archive", warning)
    record = digest.record()
    vouched = _verify(run, source, record, unpacker.summary)
    outlets.prove()
    return Streamed(archive, record, unpacker.members, unpacker.summary, vouched, copy)


async def _open_member(
    run: Run, uploads: Uploads, outlets: Outlets, member: Member, *, plain: bool
) -> tuple[Upload, Branch]:
    key = f"{run.request.prefix}models/{member.key_name}"
    upload = await uploads.open(
        key, content_type=_MODEL_TYPE, metadata=run.metadata("riva-model"), size=member.size
    )
    run.observer(MemberFound(name=member.name, key=key, size=member.size))
    return upload, outlets.of_member(upload, member, plain=plain)


def _verify(
    run: Run, source: PinnedSource, record: DigestRecord, summary: ArchiveSummary | None
) -> list[str]:
    """Compare the stream with everything that vouches for the source; the names of what agreed."""
    if record.size != source.size:
        raise DigestMismatchError(
            f"{record.size} bytes were read of {source.uri}, which has {source.size}",
            hint="run again; if it stays so, the store does not tell its sizes right",
        )
    vouched: list[str] = []
    request, expected = run.request, run.request.expect_sha256
    if expected is not None and request.no_checksum:
        run.warn(
            "no-checksum",
            f"the SHA-256 of {source.uri} is {record.sha256}; it was not compared with the expected one (--no-checksum)",
        )
    elif expected is not None:
        if record.sha256 != expected:
            raise DigestMismatchError(
                f"the SHA-256 of {source.uri} is {record.sha256}, not the expected {expected}",
                hint="check --expect-sha256 (RIVA_ASR_MODEL_SHA256); nothing was staged",
            )
        vouched.append("sha256-expected")
    try:
        vouched += source.vouchers.compare(record, uri=source.uri)
    except DigestMismatchError as error:
        # AWS says when an ETag is an MD5; elsewhere it may be anything, so where the archive vouches for itself a
        # difference is only told.
        if (
            "md5" not in source.vouchers.values
            or run.origin.is_aws
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
            "nothing vouches for the source's bytes: it has no checksum of its own; pass --expect-sha256",
        )
    return vouched
