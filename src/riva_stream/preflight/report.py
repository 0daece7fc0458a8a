"""What ``check`` returns, and how single results become its records. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from riva_stream.config import StageRequest
from riva_stream.errors import AccessDeniedError, HeldError, RivaStreamError
from riva_stream.log_place import LogPlace
from riva_stream.manifest import Document, Mode
from riva_stream.preflight.policy import Grant, PolicyDocument, grants_for, merged
from riva_stream.rights import RIGHTS

__all__ = [
    "ACCESS_DENIED",
    "NOT_TRIED",
    "CheckRecord",
    "CheckReport",
    "as_warning",
    "destination_components",
    "failed",
    "failed_with",
    "not_tried",
    "nothing_written",
    "other_bytes",
    "passed",
    "report_of",
    "warned",
    "with_left",
]

Status = Literal["pass", "warn", "fail"]

_COMPONENTS = (
    *("settings", "credentials", "source-credentials", "identity", "endpoint", "source-endpoint"),
    *("source-region", "destination-region", "clock"),
    *("source", "container", "destination", "list", "list-uploads", "list-parts", "head", "delete"),
    *("conditional-writes", "checksums", "store", "log"),
    *("memory", "open-files", "state-directory", "versions"),
)
"""All components, in the order in which they are shown: what must be fixed first comes first."""

NOT_TRIED = "not-tried"
"""The code of a record about which nothing is known."""

ACCESS_DENIED = "access-denied"
"""The code of a record about a missing permission."""
_PRECEDENCE = (78, 77, 66, 65, 73, 75, 1)
"""Of several failures, the first of these is the exit code: it hides or causes the others. What may resolve by itself
(75) comes late. Independent runs do not hide or cause each other's failures, so ``report.worst`` has another order."""


class CheckRecord(Document):
    """The result for one component."""

    component: str
    status: Status
    code: str
    """The finding, for programs: ``ok``, ``degraded``, ``failed`` or ``not-tried`` unless there is a better word."""
    message: str
    details: dict[str, Any]
    """Facts; with ``warn`` and ``fail`` usually ``fix``, what to do; with ``fail`` the ``exit_code`` of a run;
    where a permission is missing ``policy``, the statements that grant it."""


class CheckReport(Document):
    """The result of ``check``."""

    overall: Status
    """The worst status of the records."""
    exit_code: int
    """0 unless something failed."""
    run_id: str
    source: str | None
    destination: str | None
    mode: Mode | None
    """The mode that was checked; None where the settings do not say."""
    records: list[CheckRecord]
    policy: PolicyDocument | None
    """Grants everything that was found missing; None when nothing was."""
    seconds: float


def passed(component: str, message: str, *, code: str = "ok", **details: Any) -> CheckRecord:
    """A record that all is well."""
    return _record("pass", component, message, code, details)


def warned(
    component: str, message: str, *, code: str = "degraded", fix: str = "", **details: Any
) -> CheckRecord:
    """A record that a run would continue, with less."""
    return _record("warn", component, message, code, {"fix": fix, **details})


def failed(
    component: str,
    message: str,
    *,
    code: str = "failed",
    exit_code: int = 78,
    fix: str = "",
    **details: Any,
) -> CheckRecord:
    """A record that a run would end here, with this exit code."""
    return _record("fail", component, message, code, {"fix": fix, "exit_code": exit_code, **details})


def not_tried(component: str, cause: str, reason: str = "") -> CheckRecord:
    """A record that nothing is known, because ``cause``, an earlier component, failed."""
    return warned(component, f"not tried: {reason or f'{cause} failed'}", code=NOT_TRIED, because=cause)


def failed_with(
    component: str, error: RivaStreamError, request: StageRequest, *, degraded: str = ""
) -> CheckRecord:
    """The record of an error.

    Args:
        component: of the record.
        error: what was raised.
        request: determines what a policy for a missing permission covers.
        degraded: what a run lacks without the permission; if given, the record is only a warning.
    """
    details: dict[str, Any] = {"where": str(error.where)}
    if isinstance(error, HeldError):
        return warned(
            component,
            "another run is at work below the prefix, and took the test objects for leftovers",
            code="held",
            fix="check again when that run is done",
            **details,
        )
    if not isinstance(error, AccessDeniedError):
        return failed(
            component,
            error.what,
            code=error.where.code or "failed",
            exit_code=error.exit_code,
            fix=_fix(error),
            **details,
        )
    what = f"{error.where.operation} is denied" if error.says else error.what
    fix, policy = _remedy([error], request)
    details |= {"policy": policy, "store_says": error.what}
    if degraded:
        return warned(component, f"{what}: {degraded}", code=ACCESS_DENIED, fix=fix, **details)
    return failed(component, what, code=ACCESS_DENIED, exit_code=error.exit_code, fix=fix, **details)


def nothing_written(
    component: str,
    errors: Sequence[AccessDeniedError],
    request: StageRequest,
    log: LogPlace | None = None,
) -> CheckRecord:
    """The record of a place where nothing may be written, since all these permissions are missing; at least one."""
    fix, policy = _remedy(errors, request, log)
    actions = [error.action or RIGHTS[error.where.operation][0].action for error in errors]
    return failed(
        component,
        f"nothing may be written: {' and '.join(actions)} {'is' if len(actions) == 1 else 'are'} denied",
        code=ACCESS_DENIED,
        exit_code=AccessDeniedError.exit_code,
        fix=fix,
        where=str(errors[0].where),
        policy=policy,
        store_says=errors[0].what,
    )


def other_bytes(component: str, message: str) -> CheckRecord:
    """The record of a store that returns something other than what it was given."""
    return failed(
        component,
        message,
        code="other-bytes",
        exit_code=65,
        fix="check the endpoint for a cache or proxy",
    )


def with_left(record: CheckRecord, names: list[str]) -> CheckRecord:
    """The same record, with what could not be removed."""
    message, details = f"{record.message} (left: {', '.join(names)})", record.details | {"left": names}
    return record.model_copy(update={"message": message, "details": details})


def as_warning(record: CheckRecord, less: str) -> CheckRecord:
    """The record of something that a run can do without: a failure there stops no run."""
    if record.status != "fail":
        return record
    details = {name: value for name, value in record.details.items() if name != "exit_code"}
    return record.model_copy(
        update={"status": "warn", "message": f"{record.message}: {less}", "details": details}
    )


def destination_components(*, uploads: bool) -> tuple[str, ...]:
    """The components checked at the destination; by reference there are no uploads."""
    always = ("destination", "list", "head", "delete", "conditional-writes", "store")
    return (*always, "list-uploads", "list-parts", "checksums") if uploads else always


def report_of(
    request: StageRequest | None, run_id: str, records: Iterable[CheckRecord], seconds: float
) -> CheckReport:
    """The report of all records, with their overall result."""
    ordered = sorted(records, key=lambda record: _COMPONENTS.index(record.component))
    codes = [record.details["exit_code"] for record in ordered if record.status == "fail"]
    overall: Status = "fail" if codes else "warn" if any(r.status == "warn" for r in ordered) else "pass"
    grants = merged(
        Grant.model_validate(grant) for record in ordered for grant in record.details.get("policy", ())
    )
    return CheckReport(
        overall=overall,
        exit_code=min(codes, key=_PRECEDENCE.index) if codes else 0,
        run_id=run_id,
        source=request.source if request else None,
        destination=request.destination if request else None,
        mode=request.mode if request else None,
        records=_clock_first(ordered),
        policy=PolicyDocument(Statement=_with_unique_ids(grants)) if grants else None,
        seconds=round(seconds, 3),
    )


def _remedy(
    errors: Sequence[AccessDeniedError], request: StageRequest, log: LogPlace | None = None
) -> tuple[str, list[dict[str, Any]]]:
    """What to do about denied requests, and the statements that grant them."""
    found = [(error, grants_for(error, request, log=log)) for error in errors]
    grants = merged(grant for _, some in found for grant in some)
    ways = [f"grant {', '.join(grant.Action)} on {grant.Resource}" for grant in grants]
    ways += [error.hint for error, some in found if not some and error.hint]  # no grant helps, and it says so
    return "; ".join(ways), [grant.model_dump() for grant in grants]


def _fix(error: RivaStreamError) -> str:
    if error.hint or not error.retryable:
        return error.hint
    if error.where.status is None:
        return "check --endpoint-url (AWS_ENDPOINT_URL), the network, a proxy or a firewall on the way"
    return "check again in a moment"


def _record(status: Status, component: str, message: str, code: str, details: dict[str, Any]) -> CheckRecord:
    """A record whose details omit empty values."""
    told = {name: value for name, value in details.items() if value not in ("", None, [])}
    return CheckRecord(component=component, status=status, code=code, message=message, details=told)


def _clock_first(records: Sequence[CheckRecord]) -> list[CheckRecord]:
    """Suggest setting the clock first: if it is wrong, so is every signature, and refusals say nothing about rights."""
    if not any(record.component == "clock" and record.status == "fail" for record in records):
        return list(records)
    return [
        record.model_copy(
            update={"details": record.details | {"fix": "set the clock first, then check again"}}
        )
        if record.status == "fail" and record.details["exit_code"] in {75, 77}
        else record
        for record in records
    ]


def _with_unique_ids(grants: Sequence[Grant]) -> list[Grant]:
    """Number repeated statement ids, since they must be unique in a policy."""
    seen, named = Counter[str](), []
    for grant in grants:
        seen[grant.Sid] += 1
        number = str(seen[grant.Sid]) if seen[grant.Sid] > 1 else ""
        named.append(grant.model_copy(update={"Sid": grant.Sid + number}))
    return named
