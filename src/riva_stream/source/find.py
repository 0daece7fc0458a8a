"""Find exactly one source: a key, the only archive below a prefix, or the only one that matches a glob."""

from __future__ import annotations

import difflib
import fnmatch
import shlex
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial

from riva_stream import clock
from riva_stream.archive import HEAD, confirmed, suspicions
from riva_stream.errors import (
    AccessDeniedError,
    ConfigurationError,
    RivaStreamError,
    SourceNotFoundError,
    TransientError,
    Where,
)
from riva_stream.events import Observer, Warned
from riva_stream.naming import option
from riva_stream.printable import in_one_line
from riva_stream.retry import Retrier
from riva_stream.s3 import Bucket, ObjectInfo, Reader
from riva_stream.sizes import human_size
from riva_stream.source.pin import PinnedSource, SourceChecksums
from riva_stream.uris import GLOB

__all__ = ["find_archives", "find_source"]

_ARCHIVES = (".tar.gz", ".tgz", ".tar", ".tar.zst", ".riva")
_MOST_LISTED = 20_000
_SHOWN = 10
_VARIABLES = {"source": "RIVA_ASR_MODEL_S3_URI", "server_path": "RIVA_SERVER_PATH"}
_COMPARED = 200
"""Characters of a key that are compared with others."""


@dataclass(frozen=True, slots=True)
class _Named:
    """How the user named the object that is sought."""

    field: str
    """Of a request."""

    def check(self) -> str:
        """A hint for the user."""
        return f"check {option(self.field, _VARIABLES[self.field])}"

    def with_value(self, bucket: Bucket, key: str) -> str:
        """The option for another object, for a shell."""
        return f"{option(self.field)} {shlex.quote(in_one_line(f's3://{bucket.name}/{key}'))}"


async def find_source(
    store: Reader,
    bucket: str,
    key: str,
    retrier: Retrier,
    *,
    field: str = "source",
) -> PinnedSource:
    """Pin, by one HEAD, the object that ``key`` denotes.

    Args:
        store: where it is.
        bucket: its bucket.
        key: a key; or a prefix that ends in ``/``, or a glob, that exactly one archive must match.
        retrier: for transport failures.
        field: of a request: what named it, for messages.

    Raises:
        SourceNotFoundError: there is none, or more than one; the message lists the candidates.
        AccessDeniedError: it may not be read or, where listing is not permitted either, may not exist.
    """
    named, place = _Named(field), Bucket(store, bucket, retrier)
    try:
        # A key may itself contain glob characters: an object of exactly that name takes precedence.
        info = None if key.endswith("/") else await _head(place, key)
        if info is None and (key.endswith("/") or GLOB.search(key)):
            key = await _only_archive(place, key, named, retrier.observer)
            info = await _head(place, key)
        if info is None:
            raise await _missing(place, key, named)
    except ConfigurationError as error:
        if error.where.code != "NoSuchBucket":
            raise
        raise SourceNotFoundError(
            f"there is no bucket {bucket}", where=error.where, hint=f"{named.check()} and its endpoint"
        ) from error
    if len(f"{key}.".splitlines()) > 1:
        raise ConfigurationError(
            f"the key {key!r} contains a line break; the marker stores it on one line",
            where=Where("HeadObject", bucket, key),
            hint="copy the archive to a key without line breaks",
        )
    name = key.rpartition("/")[2]
    if not name.isprintable() or "\\" in name or name in {".", ".."}:
        raise ConfigurationError(
            f"the name {name!r} cannot be written to a checksum file",
            where=Where("HeadObject", bucket, key),
            hint="copy the archive to a key of printable characters without backslashes, that ends in a name",
        )
    return PinnedSource(
        bucket=bucket,
        key=key,
        size=info.size,
        etag=info.etag,
        version_id=info.version_id,
        last_modified=info.last_modified,
        checksums=SourceChecksums.of(info),
    )


async def find_archives(bucket: Bucket, key: str, observer: Observer) -> list[ObjectInfo]:
    """All objects that ``key`` denotes, in the order of their keys.

    Args:
        bucket: where they are.
        key: a prefix that ends in ``/``, below which objects with an archive's extension count; or a glob.
        observer: warned of files left by an operating system, which do not count.

    Raises:
        SourceNotFoundError: there are too many keys to search.
    """
    below = await _list_all(bucket, GLOB.split(key, maxsplit=1)[0])
    return await _matching(bucket, key, below, observer)


async def _matching(
    bucket: Bucket, pattern: str, below: Sequence[ObjectInfo], observer: Observer
) -> list[ObjectInfo]:
    """Those of ``below`` that match, without files left by an operating system, judged by name and first bytes."""
    if pattern.endswith("/"):
        fitting = [entry for entry in below if entry.key.endswith(_ARCHIVES)]
    else:
        fitting = [entry for entry in below if fnmatch.fnmatchcase(entry.key, pattern)]
    found: list[ObjectInfo] = []
    left: dict[str, str] = {}
    for entry in fitting:
        may_be = suspicions(entry.key)
        head = await _first_bytes(bucket, entry) if may_be and entry.size else b""
        told = confirmed(may_be, head, entry.size)
        if told is None:
            found.append(entry)
        else:
            left[entry.key] = told
    if left:
        names = ", ".join(f"{key.rpartition('/')[2]} ({what})" for key, what in left.items())
        observer(
            Warned(
                code="leftovers",
                message=f"ignored among the matches of s3://{bucket.name}/{pattern}: {names}",
            )
        )
    return found


async def _head(bucket: Bucket, key: str) -> ObjectInfo | None:
    """HEAD the source.

    Raises:
        ConfigurationError: the store rejects the credentials.
        AccessDeniedError: it accepts them, but they do not grant access.
    """
    try:
        return await bucket.head(key)
    except AccessDeniedError as error:
        # The answer to a HEAD has no body, so it does not say if the credentials are wrong.
        with suppress(AccessDeniedError, TransientError):
            await bucket.list_objects(key, limit=1)
        # Without s3:ListBucket S3 answers 403 for a missing key, so as not to reveal that (S3 API, HeadObject)
        raise AccessDeniedError(
            f"s3://{bucket.name}/{key} may not be read: either the credentials lack s3:GetObject on it, or there is no such "
            "key and they lack s3:ListBucket, without which the store will not say so",
            where=error.where,
            hint=f"check the key, and grant s3:GetObject on it and s3:ListBucket on {bucket.name}",
            action=error.action,
            resource=error.resource,
            denied_by=error.denied_by,
        ) from error


async def _only_archive(bucket: Bucket, pattern: str, named: _Named, observer: Observer) -> str:
    prefix = GLOB.split(pattern, maxsplit=1)[0]
    below = await _list_all(bucket, prefix)
    found = await _matching(bucket, pattern, below, observer)
    kind = f"archive ({', '.join(_ARCHIVES)}) below" if pattern.endswith("/") else "object that matches"
    sought = f"{kind} s3://{bucket.name}/{pattern}"
    if len(found) == 1:
        return found[0].key
    if found:
        raise SourceNotFoundError(
            f"there are {len(found)} of them, but exactly one {sought} is required:",
            where=Where("ListObjectsV2", bucket.name, prefix),
            hint=f"name one: {named.with_value(bucket, found[0].key)}",
        ).listing(_listed(found))
    raise SourceNotFoundError(
        f"there is no {sought}" + ("; there is:" if below else ""),
        where=Where("ListObjectsV2", bucket.name, prefix),
        hint=named.check(),
    ).listing(_listed(below))


async def _first_bytes(bucket: Bucket, entry: ObjectInfo) -> bytes:
    async def read() -> bytes:
        head = b""
        last = min(entry.size, HEAD) - 1
        async with bucket.store.get_range(
            bucket.name, entry.key, first=0, last=last, etag="", version_id=None
        ) as reply:
            async for piece in reply.pieces:
                head += piece[: HEAD - len(head)]
                if len(head) == HEAD:
                    break
        return head

    return await bucket.retrier("GetObject", read)


async def _list_all(bucket: Bucket, prefix: str) -> list[ObjectInfo]:
    found: list[ObjectInfo] = []
    async with aclosing(bucket.objects(prefix)) as entries:
        async for entry in entries:
            if len(found) == _MOST_LISTED:
                raise SourceNotFoundError(
                    f"there are more than {_MOST_LISTED} keys below s3://{bucket.name}/{prefix}: too many to choose from",
                    where=Where("ListObjectsV2", bucket.name, prefix),
                    hint="name the archive, or a longer prefix",
                )
            found.append(entry)
    return found


async def _missing(bucket: Bucket, key: str, named: _Named) -> RivaStreamError:
    """The error for a missing key, with the nearest existing keys."""
    near: list[ObjectInfo] = []
    where = Where("HeadObject", bucket.name, key, status=404)
    # from its own folder outwards, until something is found
    folder = key
    while not near and folder:
        folder = folder.rstrip("/").rpartition("/")[0]
        folder = f"{folder}/" if folder else ""
        try:
            near = list((await bucket.list_objects(folder)).objects)
        except AccessDeniedError:
            return SourceNotFoundError(
                f"there is no s3://{bucket.name}/{key} (and the keys there may not be listed)",
                where=where,
                hint=f"check the key; grant s3:ListBucket on {bucket.name} to see similar keys",
            )
    keys = {entry.key: entry for entry in near}
    # In a thread, and by their beginnings: comparing a thousand long keys takes seconds.
    short = {name[:_COMPARED]: name for name in keys}
    match = partial(difflib.get_close_matches, key[:_COMPARED], short, n=_SHOWN, cutoff=0.3)
    closest = [short[name] for name in await clock.in_thread(match)] or sorted(keys)[:_SHOWN]
    nearest = f"did you mean {named.with_value(bucket, closest[0])} ?" if closest else ""
    return SourceNotFoundError(
        f"there is no s3://{bucket.name}/{key}; "
        + ("the nearest keys are:" if closest else "the bucket is empty"),
        where=where,
        hint=nearest or named.check(),
    ).listing(_listed([keys[name] for name in closest]))


def _listed(entries: Sequence[ObjectInfo]) -> list[str]:
    shown = [f"{entry.key}  ({human_size(entry.size)})" for entry in entries[:_SHOWN]]
    return [*shown, f"… and {len(entries) - _SHOWN} more"] if len(entries) > _SHOWN else shown
