"""``retention``: the lifecycle rules of a bucket for what is staged in it, merged with the rules of others.

A lifecycle rule goes by the age of single objects and is carried out once a day or so, so a staging does not go in
one piece. Its marker has to go first, or it would vouch for objects that are gone. Two rules see to that: what is
small (the marker and the documents) expires after N days, and the rest so many days later as an upload can be older
than the marker of its staging, which is as long as the store keeps an open upload, and a day for the store to act.
A bintarball reference is two small documents elsewhere in the bucket; one rule more of each environment is for these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal

from pydantic import Field

from riva_stream import clock
from riva_stream.errors import AccessDeniedError, ConfigurationError, HeldError, TransientError, Where
from riva_stream.events import Observer, Warned, ignore
from riva_stream.layout import DEPLOYMENTS
from riva_stream.manifest import Document
from riva_stream.operations.extent import Extent, extent_of
from riva_stream.operations.lifecycle import (
    DOCUMENTS_BELOW,
    OURS,
    SMALL,
    RuleSpec,
    difference,
    id_of,
    keeps_no_sizes,
    lacks_sizes,
    merged,
    parsed,
    rules_of,
    same,
    structure,
    to_xml,
    uses_old_form,
)
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.s3 import Lifecycle, Store, StoreSettings, open_store

__all__ = ["Policy", "RetentionReport", "RuleChange", "retention"]

_EXPIRE = f"{OURS}expire-"
_BINTARBALL = f"{OURS}bintarball-"
"""How the IDs of the rules for stagings, and of those for bintarball references, go on."""
_READ_BACK = RetryPolicy(retries=5)
"""S3 may take a moment to show rules that were put."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the rules shall say. Times are days."""

    expire: tuple[str, ...]
    """Environments whose stagings expire."""
    clean: tuple[str, ...]
    """Environments whose abandoned multipart uploads are aborted."""
    days: int = 90
    abort_days: int = 7
    noncurrent_days: int | None = None
    """In a bucket with versions: when the bytes behind an expired object go as well. None: never."""
    by_tag: bool = False
    """Only objects tagged ``retention-days=<days>`` (``stage --tag``)."""
    remove: bool = False
    """Take our rules for these environments away instead."""

    @property
    def days_of_bytes(self) -> int:
        """When archives and models go: after every marker that may be younger than they are."""
        return self.days + self.abort_days + 1

    def rules(self) -> list[RuleSpec]:
        """Our rules."""
        if self.remove:
            return []
        made: list[RuleSpec] = []
        for env in self.expire:
            rule = partial(
                RuleSpec,
                prefix=f"{env}/",
                noncurrent_days=self.noncurrent_days,
                tag=("retention-days", str(self.days)) if self.by_tag else None,
            )
            which = f"-tag-{self.days}" if self.by_tag else ""
            name = f"{_EXPIRE}{env}{which}"
            made += [
                rule(f"{name}{SMALL}", smaller_than=DOCUMENTS_BELOW, days=self.days),
                rule(name, days=self.days_of_bytes),
                rule(f"{_BINTARBALL}{env}{which}", prefix=f"{DEPLOYMENTS}{env}/", days=self.days),
            ]
        made += [RuleSpec(f"{OURS}abort-{env}", f"{env}/", abort_days=self.abort_days) for env in self.clean]
        return made

    def replaces(self, name: str) -> bool:
        """Whether the rule called ``name`` is one of ours that these rules stand in the place of.

        Rules by tag and rules for all objects of an environment exclude each other; those for other numbers of
        days by tag stay beside new ones.
        """
        for env in {*self.expire, *self.clean}:
            expiring = (f"{_EXPIRE}{env}", f"{_BINTARBALL}{env}")
            plain = {*expiring, f"{_EXPIRE}{env}{SMALL}"}
            tagged = name.startswith(tuple(f"{rule}-tag-" for rule in expiring))
            if self.remove and (name in plain | {f"{OURS}abort-{env}"} or tagged):
                return True
            if env in self.expire and (name in plain or (tagged and not self.by_tag)):
                return True
        return False


class RuleChange(Document):
    """One rule of ours that differs."""

    id: str
    change: Literal["added", "changed", "removed"]


class RetentionReport(Document):
    """The result of ``retention``."""

    bucket: str
    applied: bool
    """Whether rules were written."""
    days: int
    days_of_bytes: int
    abort_days: int
    changes: list[RuleChange]
    before: list[Any]
    """The rules there, field by field as the store tells them."""
    after: list[Any]
    """The rules that are there now, when they were applied; else those that would be."""
    diff: list[str]
    extent: list[Extent] = Field(default_factory=list)
    """What the rules for expiry apply to now."""
    warnings: list[str] = Field(default_factory=list)


async def retention(
    settings: StoreSettings,
    bucket: str,
    policy: Policy,
    *,
    apply: bool,
    observer: Observer = ignore,
    session: Any = None,
    clock: Callable[[], datetime] = clock.now,
) -> RetentionReport:
    """Compare the rules of ``bucket`` with those that ``policy`` wants, and with ``apply`` set them.

    Args:
        settings: the store.
        bucket: its bucket.
        policy: what the rules shall say.
        apply: write them; otherwise only say what would be.
        observer: is told warnings and retries.
        session: the caller's own ``aioboto3.Session``.
        clock: the time of day, to say what is old enough now.

    Raises:
        ConfigurationError: the store has no lifecycle rules, or keeps ours otherwise than they were sent.
        AccessDeniedError: s3:GetLifecycleConfiguration or s3:PutLifecycleConfiguration is missing.
        HeldError: somebody else has changed the rules meanwhile.
    """
    warnings: list[str] = []

    def warn(code: str, message: str) -> None:
        warnings.append(message)
        observer(Warned(code=code, message=message))

    async with AsyncExitStack() as stack:
        store: Store = await stack.enter_async_context(
            open_store(settings, session=session, warn=partial(warn, "profile"))
        )
        job = _Job(store, bucket, Retrier(_READ_BACK, observer))
        there = await job.read()
        before = parsed(there.xml if there else None)
        dropped = [name for name in map(id_of, rules_of(before)) if policy.replaces(name)]
        after = merged(before, policy.rules(), dropped)
        extent: list[Extent] = []
        if policy.expire and not policy.remove and not policy.by_tag:
            try:
                extent = [
                    await extent_of(store, job.retrier, bucket, place, policy.days, of_bytes, clock())
                    for env in policy.expire
                    for place, of_bytes in (
                        (f"{env}/", policy.days_of_bytes),
                        (f"{DEPLOYMENTS}{env}/", policy.days),
                    )
                ]
            except AccessDeniedError as error:
                warn("list", f"what the rules apply to now is not known: {error.what}; {error.hint}")
        changes = _changes(before, after)
        if changes and apply:
            after = await job.write(there, before, after)
        if keeps_no_sizes(after):
            warn(
                "sizes",
                "this store keeps no size in a lifecycle rule: all of a staging expires at the same age, in no order, "
                "so its marker may be there for a while after an object has gone; riva-stream verify tells",
            )
        return RetentionReport(
            bucket=bucket,
            applied=bool(changes) and apply,
            days=policy.days,
            days_of_bytes=policy.days_of_bytes,
            abort_days=policy.abort_days,
            changes=changes,
            before=[structure(rule) for rule in rules_of(before)],
            after=[structure(rule) for rule in rules_of(after)],
            diff=difference(before, after),
            extent=extent,
            warnings=warnings,
        )


def _changes(before: Any, after: Any) -> list[RuleChange]:
    old = {id_of(rule): structure(rule) for rule in rules_of(before)}
    new = {id_of(rule): structure(rule) for rule in rules_of(after)}
    kinds: Sequence[tuple[Literal["added", "changed", "removed"], list[str]]] = (
        ("added", [name for name in new if name not in old]),
        ("changed", [name for name in new if name in old and new[name] != old[name]]),
        ("removed", [name for name in old if name not in new]),
    )
    return [RuleChange(id=name, change=kind) for kind, names in kinds for name in names]


@dataclass(eq=False, slots=True)
class _Job:
    """Reads and writes the rules of one bucket."""

    store: Store
    bucket: str
    retrier: Retrier

    async def read(self) -> Lifecycle | None:
        return await self.retrier(
            "GetBucketLifecycleConfiguration", partial(self.store.get_lifecycle, self.bucket)
        )

    async def write(self, there: Lifecycle | None, before: Any, after: Any) -> Any:
        """Put ``after`` in the place of ``before``, unless somebody was quicker; and give what is there then.

        S3 knows no condition for this request. What is left between the second reading and the writing is one
        round trip; a change of somebody else that falls into it is lost, and nothing would tell of it.
        """
        again = await self.read()
        minimum = again.transition_minimum if again else ""
        if not same(before, parsed(again.xml if again else None)) or minimum != (
            there.transition_minimum if there else ""
        ):
            raise HeldError(
                "somebody else has changed the lifecycle rules meanwhile; nothing was written",
                where=Where("GetBucketLifecycleConfiguration", self.bucket),
                hint="run the same command again to see what would change now",
            )
        if rules_of(after):
            put = partial(self.store.put_lifecycle, self.bucket, Lifecycle(to_xml(after), minimum))
            try:
                await self.retrier("PutBucketLifecycleConfiguration", put)
            except ConfigurationError as error:
                if uses_old_form(before):
                    error.hint = (
                        "rules of others there have their <Prefix> beside a <Filter>, an old form that S3 does "
                        "not take together with filters by size; whoever owns them has to rewrite them first"
                    )
                raise
        else:
            await self.retrier("DeleteBucketLifecycle", partial(self.store.delete_lifecycle, self.bucket))
        return await self.retrier("GetBucketLifecycleConfiguration", partial(self._verify, after))

    async def _verify(self, wanted: Any) -> Any:
        now = await self.store.get_lifecycle(self.bucket)
        found = parsed(now.xml if now else None)
        if same(found, wanted) or lacks_sizes(found, wanted):
            return found
        where = Where("GetBucketLifecycleConfiguration", self.bucket)
        if _others(found) == _others(wanted) and {id_of(rule) for rule in rules_of(found)} == {
            id_of(rule) for rule in rules_of(wanted)
        }:
            told = [line for line in difference(wanted, found) if line[0] in "-+"]
            raise ConfigurationError(
                f"the store keeps the rules otherwise than they were sent: {'; '.join(told)}",
                where=where,
                hint="this store may not know every field of a lifecycle rule; take them back with --remove --apply",
            )
        raise TransientError(
            "the lifecycle rules read otherwise than they were written: somebody else has changed them at the same "
            "time, or the store does not show them yet",
            where=where,
            hint="run it again without --apply, to see what is there now",
        )


def _others(root: Any) -> list[Any]:
    rules = (structure(rule) for rule in rules_of(root) if not id_of(rule).startswith(OURS))
    return sorted(rules, key=str)
