"""``retention``: lifecycle rules for the stagings in a bucket, merged with the bucket's other rules.

A lifecycle rule acts on the age of single objects, about once a day, so a staging does not expire as a whole. Its
marker has to expire first, or it would vouch for objects that are gone. Two rules ensure that: small objects (the
marker and the documents) expire after N days, and the rest as many days later as an upload can be older than the marker
of its staging, which is as long as the store keeps an open upload, plus a day for the store to act. Only AWS is trusted
with that: a store that drops the size from the rule for small objects (Ceph does) would apply it to everything.
Elsewhere there is one rule, by age alone. A bintarball reference is two small documents elsewhere in the bucket; each
environment has one more rule for these.

Nothing is written: S3 has no precondition for that request, and the AWS command line can do it as well.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, Self

from pydantic import Field

from riva_stream import clock
from riva_stream.deployment import DOCUMENTS
from riva_stream.errors import AccessDeniedError, ConfigurationError, Where
from riva_stream.events import Event, Observer, Warned, ignore
from riva_stream.inspection.find import is_above, levels_of, open_bucket
from riva_stream.layout import DEPLOYMENT_DOCUMENTS, DEPLOYMENTS, marker_at
from riva_stream.manifest import Document
from riva_stream.retry import RetryPolicy
from riva_stream.s3 import Bucket, Lifecycle, StoreSettings

__all__ = ["Extent", "Policy", "RetentionReport", "RuleChange", "retention"]

_OURS = "riva-stream-"
"""Prefix of the ID of each of our rules."""

Rule = Mapping[str, Any]
"""In the format of the AWS command line."""


@dataclass(frozen=True, slots=True)
class _Own:
    """What makes a rule ours: its ID, and the prefix in its filter."""

    kind: str
    """``expire`` (stagings), ``bintarball`` (bintarball references) or ``abort`` (uploads)."""
    env: str
    only: tuple[str, ...] = ()
    """``tag`` and a number of days, ``documents``: which objects."""

    @property
    def id(self) -> str:
        """Its parts are separated by a character that no environment has."""
        return _OURS + ":".join((self.kind, self.env, *self.only))

    @property
    def prefix(self) -> str:
        """Of the keys that the rule applies to."""
        return f"{DEPLOYMENTS if self.kind == 'bintarball' else ''}{self.env}/"

    @classmethod
    def of(cls, rule: Rule) -> Self | None:
        """Recognise a rule of ours.

        Version 0.2 separated the parts of its IDs by hyphens: only the prefix says where the environment ends in one.
        """
        among = rule.get("Filter", {})
        prefix = among.get("And", among).get("Prefix", rule.get("Prefix", ""))
        env = prefix.removeprefix(DEPLOYMENTS).removesuffix("/")
        id_ = rf"{_OURS}(expire|bintarball|abort)[:-]{re.escape(env)}([:-]tag[:-]\d+)?([:-]documents)?"
        if (found := re.fullmatch(id_, rule.get("ID", ""))) is None:
            return None
        kind, tag, small = found.groups("")
        own = cls(kind, env, tuple(re.findall(r"\w+", tag + small)))
        return own if own.prefix == prefix else None


@dataclass(frozen=True, slots=True)
class Policy:
    """What the rules are to say. Times are days."""

    expire: tuple[str, ...]
    """Environments whose stagings expire."""
    clean: tuple[str, ...]
    """Environments whose abandoned multipart uploads are aborted."""
    days: int = 90
    abort_days: int = 7
    noncurrent_days: int | None = None
    """In a bucket with versions: when the bytes behind an expired object are deleted as well. None: never."""
    by_tag: bool = False
    """Only objects tagged ``retention-days=<days>`` (``stage --tag``)."""
    remove: bool = False
    """Remove our rules for these environments instead."""

    def days_of_bytes(self, *, by_size: bool) -> int:
        """When archives and models expire: after every marker that may be younger than they are."""
        return self.days + self.abort_days + 1 if by_size else self.days

    def rules(self, *, by_size: bool) -> list[Rule]:
        """Our rules; ``by_size`` where the store is known to keep sizes in them."""
        if self.remove:
            return []
        made: list[Rule] = []
        for env in self.expire:
            tag = ("tag", str(self.days)) if self.by_tag else ()
            if by_size:
                small = _Own("expire", env, (*tag, "documents"))
                made.append(self._expiring(small, self.days, ObjectSizeLessThan=_DOCUMENTS_BELOW))
            made.append(self._expiring(_Own("expire", env, tag), self.days_of_bytes(by_size=by_size)))
            made.append(self._expiring(_Own("bintarball", env, tag), self.days))
        abort = {"DaysAfterInitiation": self.abort_days}
        made += [_rule(_Own("abort", env), AbortIncompleteMultipartUpload=abort) for env in self.clean]
        return made

    def _expiring(self, own: _Own, days: int, **filters: Any) -> Rule:
        if self.by_tag:
            filters["Tags"] = [{"Key": "retention-days", "Value": str(self.days)}]
        actions: dict[str, Any] = {"Expiration": {"Days": days}}
        if self.noncurrent_days is not None:
            actions["NoncurrentVersionExpiration"] = {"NoncurrentDays": self.noncurrent_days}
        return _rule(own, filters, **actions)

    def replaces(self, own: _Own) -> bool:
        """Whether these rules replace one of ours.

        Rules by tag and rules for all objects of an environment exclude each other; those by tag for other numbers
        of days are kept beside new ones.
        """
        if self.remove:
            return own.env in {*self.expire, *self.clean}
        return own.env in self.expire and own.kind != "abort" and not (self.by_tag and "tag" in own.only)


def _rule(own: _Own, filters: Mapping[str, Any] | None = None, **actions: Any) -> Rule:
    among = {"And": {"Prefix": own.prefix, **filters}} if filters else {"Prefix": own.prefix}
    return {"ID": own.id, "Filter": among, "Status": "Enabled", **actions}


class RuleChange(Document):
    """One of our rules that differs."""

    id: str
    change: Literal["added", "changed", "removed"]


class RetentionReport(Document):
    """The result of ``retention``."""

    bucket: str
    days: int
    days_of_bytes: int
    abort_days: int
    changes: list[RuleChange]
    before: list[dict[str, Any]]
    """The existing rules."""
    document: dict[str, Any]
    """The merged rules, as ``aws s3api put-bucket-lifecycle-configuration --lifecycle-configuration`` takes them."""
    transition_minimum: str
    """The bucket's setting that must be passed along with them; "" for none."""
    diff: list[str]
    """One line per rule: ``- `` is removed, ``+ `` is added, ``  `` stays."""
    extent: list[Extent] = Field(default_factory=list)
    """What the expiry rules apply to now."""
    warnings: list[Warned] = Field(default_factory=list)


async def retention(
    settings: StoreSettings,
    bucket: str,
    policy: Policy,
    *,
    by_size: bool | None = None,
    observer: Observer = ignore,
    clock: Callable[[], datetime] = clock.now,
) -> RetentionReport:
    """Compare the rules of ``bucket`` with those that ``policy`` wants, and merge them.

    Args:
        settings: the store.
        bucket: its bucket.
        policy: what the rules are to say.
        by_size: whether rules may filter by size; None: only where the store is AWS.
        observer: is told of warnings and retries.
        clock: returns the time of day, to determine what is old enough now.

    Raises:
        ConfigurationError: the store has no lifecycle rules, or other rules would not survive a merge.
        AccessDeniedError: s3:GetLifecycleConfiguration is missing.
    """
    warnings: list[Warned] = []

    def watch(event: Event) -> None:
        if isinstance(event, Warned):
            warnings.append(event)
        observer(event)

    def warn(code: str, message: str) -> None:
        watch(Warned(code=code, message=message))

    async with open_bucket(settings, bucket, watch, policy=RetryPolicy(retries=5)) as there:
        by_size = there.is_aws if by_size is None else by_size
        found = await there.get_lifecycle() or Lifecycle(())
        if found.unknown:
            raise ConfigurationError(
                f"the rules of the bucket have unknown fields: {', '.join(found.unknown)}; "
                "a merged document would delete them",
                where=Where("GetBucketLifecycleConfiguration", bucket),
                hint="add the rules by the tool that wrote those fields; riva-stream docs retention lists them",
            )
        days_of_bytes = policy.days_of_bytes(by_size=by_size)
        after = _merged(found.rules, policy, by_size=by_size)
        extent: list[Extent] = []
        if policy.expire and not policy.remove and not policy.by_tag:
            try:
                extent = [
                    await _extent_of(there, place, policy.days, of_bytes, clock())
                    for env in policy.expire
                    for place, of_bytes in ((f"{env}/", days_of_bytes), (f"{DEPLOYMENTS}{env}/", policy.days))
                ]
            except AccessDeniedError as error:
                warn("list", f"what the rules apply to now is not known: {error.what}; {error.hint}")
        _warn_of_rules(found.rules, policy, warn, by_size=by_size)
        return RetentionReport(
            bucket=bucket,
            days=policy.days,
            days_of_bytes=days_of_bytes,
            abort_days=policy.abort_days,
            changes=_changes(found.rules, after),
            before=[dict(rule) for rule in found.rules],
            document={"Rules": after},
            transition_minimum=found.transition_minimum,
            diff=[
                line for line in difflib.ndiff(_lines(found.rules), _lines(after)) if not line.startswith("?")
            ],
            extent=extent,
            warnings=warnings,
        )


def _warn_of_rules(
    there: Sequence[Rule], policy: Policy, warn: Callable[[str, str], None], *, by_size: bool
) -> None:
    if policy.remove:
        return
    if not by_size:
        warn(
            "sizes",
            "this store is not AWS, so no rule goes by size: all of a staging expires at the same age, in no order, and "
            "its marker may be there for a while after an object was deleted. Put the rules and run this again: a "
            "rule shown as changed is one that the store keeps in another form, and may remove more than it says here",
        )
    elif any("Prefix" in rule for rule in there):
        warn(
            "old-form",
            "rules there have their Prefix beside a Filter, an old form that S3 does not take together with "
            "filters by size; they have to be rewritten first",
        )


def _merged(there: Sequence[Rule], policy: Policy, *, by_size: bool) -> list[Rule]:
    """Merge: our rules are replaced in place, appended or dropped as wanted; other rules stay unchanged."""
    wanted = {rule["ID"]: rule for rule in policy.rules(by_size=by_size)}
    merged: dict[int | str, Rule] = {}
    for number, rule in enumerate(there):
        own = _Own.of(rule)
        if own is not None and own.id in wanted:
            merged[own.id] = wanted[own.id]
        elif own is None or not policy.replaces(own):
            merged[number] = rule
    return list((merged | wanted).values())


def _lines(rules: Sequence[Rule]) -> list[str]:
    return [json.dumps(rule, sort_keys=True) for rule in rules]


def _changes(before: Sequence[Rule], after: Sequence[Rule]) -> list[RuleChange]:
    old, new = ({rule.get("ID", ""): rule for rule in rules} for rules in (before, after))
    kinds: Sequence[tuple[Literal["added", "changed", "removed"], list[str]]] = (
        ("added", [name for name in new if name not in old]),
        ("changed", [name for name in new if name in old and new[name] != old[name]]),
        ("removed", [name for name in old if name not in new]),
    )
    return [RuleChange(id=name, change=kind) for kind, names in kinds for name in names]


_DOCUMENTS_BELOW = 128 << 10
"""Bytes. A marker and the other documents are smaller; archives and models are larger."""
_MOST = 20_000
"""Maximum number of keys that are listed; further ones are mentioned, not counted."""
_NAMED = 5
_STAGED = re.compile(
    rf"(?:[^/]+/){{3}}(?:source/.+|models/.+|\.riva-stream/.+|{'|'.join(map(re.escape, DOCUMENTS))})"
)
_REFERENCE = re.compile(rf"{DEPLOYMENTS}(?:[^/]+/){{3}}(?:{'|'.join(map(re.escape, DEPLOYMENT_DOCUMENTS))})")


class Extent(Document):
    """One environment's stagings, or its bintarball references."""

    environment: str
    prefix: str
    """The prefix of the rules."""
    objects: int = 0
    size_bytes: int = 0
    stagings: int = 0
    """Number of markers."""
    due: int = 0
    """Objects that are old enough already: the store removes them in its next round."""
    foreign: int = 0
    """Objects that do not belong to a staging; a rule for the environment applies to them all the same."""
    foreign_keys: list[str] = Field(default_factory=list)
    """The first of them."""
    complete: bool = True
    """False: there are more objects than were listed."""


async def _extent_of(bucket: Bucket, prefix: str, days: int, days_of_bytes: int, now: datetime) -> Extent:
    """List what is below ``prefix``, ``ENV/`` or that of its bintarball references, and say what the rules would do.

    Args:
        bucket: where to look.
        prefix: of one environment, with its closing slash.
        days: after which small objects expire.
        days_of_bytes: after which all others do.
        now: the time of day.

    Raises:
        RivaStreamError: it cannot be listed.
    """
    known = _REFERENCE if prefix.startswith(DEPLOYMENTS) else _STAGED
    seen, counts, foreign = 0, Counter[str](), list[str]()
    async with aclosing(bucket.objects(prefix)) as entries:
        async for entry in entries:
            seen += 1
            if seen > _MOST:
                break
            if entry.key.endswith("/") and not entry.size:
                continue  # a folder, as consoles and some stores create them
            ours = known.fullmatch(entry.key) is not None
            folder, name = entry.key[: entry.key.rfind("/") + 1], entry.key.rpartition("/")[2]
            limit = now - timedelta(days=days if entry.size < _DOCUMENTS_BELOW else days_of_bytes)
            counts.update(
                objects=1,
                size_bytes=entry.size,
                stagings=int(ours and not is_above(folder) and name == marker_at(folder)),
                due=int(entry.last_modified is not None and entry.last_modified <= limit),
                foreign=int(not ours),
            )
            if not ours and len(foreign) < _NAMED:
                foreign.append(entry.key)
    return Extent(
        environment=levels_of(prefix)[0],
        prefix=prefix,
        foreign_keys=foreign,
        complete=seen <= _MOST,
        **counts,
    )
