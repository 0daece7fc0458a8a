"""``check``: would a run succeed, and if not, what is in its way?

Everything that a run needs is tried once, at the same time where it does not depend on something else, each with a
time limit of its own; what is written for that is removed again. A check that fails makes a record, never an error.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from riva_stream import clock
from riva_stream.config import StageRequest
from riva_stream.errors import ConfigurationError, RivaStreamError, StalledError, TransientError
from riva_stream.log_delivery import log_store
from riva_stream.log_place import LogPlace
from riva_stream.pipeline.stores import destination_settings, is_elsewhere, source_settings
from riva_stream.preflight.destination import check_writing
from riva_stream.preflight.endpoint import clock_record, region_record, resolved
from riva_stream.preflight.examiner import Examiner
from riva_stream.preflight.host import check_files, check_memory, check_state, check_versions
from riva_stream.preflight.log import check_log
from riva_stream.preflight.report import (
    NOT_TRIED,
    CheckRecord,
    CheckReport,
    destination_components,
    failed,
    failed_with,
    passed,
    report_of,
    warned,
)
from riva_stream.preflight.source import SourceCheck, container_record
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.s3 import StoreSettings, open_store
from riva_stream.s3.errors import CREDENTIALS
from riva_stream.s3.look import Look, open_look
from riva_stream.s3.scratch import say_nothing

__all__ = ["check", "check_host"]

E = TypeVar("E", bound=RivaStreamError)

_IDENTITY_SECONDS = 2.0
_POLICY = RetryPolicy(retries=2, base=0.1, cap=0.5)


async def check(
    request: StageRequest,
    settled: CheckRecord,
    *,
    run_id: str = "",
    limit: float = 10.0,
    session: Any = None,
    log: LogPlace | None = None,
) -> CheckReport:
    """Try everything that a run of ``request`` needs.

    Args:
        request: what would be staged.
        settled: the record of the settings that the request was made from.
        run_id: for the report.
        limit: seconds that each check may take. A clean-up may take as long again.
        session: the caller's own ``aioboto3.Session``, for both stores.
        log: where the copy of the run's log would go.
    """
    began = clock.monotonic()
    examiner = Examiner(request, limit, Retrier(_POLICY))
    examiner.keep(settled)
    async with anyio.create_task_group() as tasks:
        for record in (
            partial(check_files, request.connections),
            partial(check_state, request.state_dir or Path("state")),
            check_versions,
        ):
            tasks.start_soon(_on_this_host, examiner, record)
        await _Stores(examiner, session, log).check()
    return report_of(request, run_id, examiner.records.values(), clock.monotonic() - began)


async def check_host(settled: CheckRecord, *, state_dir: Path, run_id: str) -> CheckReport:
    """What can be looked at without settings, when those are wrong: this host alone."""
    began = clock.monotonic()
    looks = (partial(check_state, state_dir), check_versions)
    records = [await clock.in_thread(look) for look in looks]
    return report_of(None, run_id, [settled, *records], clock.monotonic() - began)


async def _on_this_host(examiner: Examiner, look: Any) -> None:
    examiner.keep(await clock.in_thread(look, abandon_on_cancel=True))


class _Stores:
    """The part that needs the network."""

    def __init__(self, examiner: Examiner, session: Any, log: LogPlace | None) -> None:
        self._examiner = examiner
        self._log = log
        self._request = examiner.request
        self._session = session
        self._elsewhere = is_elsewhere(self._request)
        self._source_size = 0
        self._ignored: dict[str, list[str]] = {}
        """What was ignored in finding credentials, by the component of their record."""

    async def check(self) -> None:
        request, examiner = self._request, self._examiner
        async with anyio.create_task_group() as tasks:
            if self._elsewhere:
                tasks.start_soon(self._side, source_settings(request), "source-", self._source)
                tasks.start_soon(self._side, destination_settings(request), "", self._destination)
            else:
                tasks.start_soon(self._side, destination_settings(request), "", self._both)
        needed = (self._source_size, examiner.store.most_parts)
        part_size, forced = request.part_size_for(*needed), request.why_larger(*needed)
        look = partial(check_memory, request.memory, part_size, forced=forced)
        examiner.keep(await clock.in_thread(look))

    async def _side(self, settings: StoreSettings, name: str, then: Any) -> None:
        """One endpoint with its credentials: these first, for without them everything else fails alike."""
        examiner = self._examiner
        try:
            async with self._looking(settings, name) as look:
                if look is not None:
                    await then(settings, look)
        except (
            ConfigurationError,
            StalledError,
        ) as error:  # the client cannot be made: credentials, the CA bundle
            component = f"{name}credentials"
            told = _with_ignored(error, self._ignored[component])
            examiner.keep(failed_with(component, told, self._request))
        self._skip_the_rest(name)

    @asynccontextmanager
    async def _looking(self, settings: StoreSettings, name: str) -> AsyncIterator[Look | None]:
        """The client to look with once there are credentials and the endpoint has an address; else None."""
        examiner, component = self._examiner, f"{name}credentials"
        ignored = self._ignored[component] = []
        settings = replace(settings, credentials_timeout=examiner.limit)
        async with open_look(settings, session=self._session, warn=ignored.append) as look:
            found = await examiner.examine(component, partial(_credentials, component, look, ignored))
            if found.status == "fail":
                yield None
                return
            async with anyio.create_task_group() as tasks:
                if not name:
                    tasks.start_soon(self._identify, look)
                component = f"{name}endpoint"
                resolved = await examiner.examine(component, partial(_resolves, component, look))
                yield look if resolved.status != "fail" else None

    async def _identify(self, look: Look) -> None:
        """Who the credentials are: never more than a warning, never longer than two seconds."""
        less = "who the credentials are is not known; that by itself stops no run"
        try:
            with anyio.fail_after(min(_IDENTITY_SECONDS, self._examiner.limit)):
                identity = await look.identity(resolved)
        except TimeoutError:
            record = warned("identity", f"STS gave no answer within {_IDENTITY_SECONDS:g} s: {less}")
        except Exception as error:  # noqa: BLE001 - whatever STS does, it only ever warns
            record = warned("identity", f"{getattr(error, 'what', error)}: {less}")
        else:
            if identity is None:
                said = "skipped: the endpoint is not AWS (AWS_ENDPOINT_URL_STS would name one to ask)"
                record = passed("identity", said)
            else:
                record = passed("identity", identity.arn, account=identity.account, arn=identity.arn)
        self._examiner.keep(record)

    async def _both(self, settings: StoreSettings, look: Look) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._source, settings, look)
            tasks.start_soon(self._destination, settings, look)

    async def _source(self, settings: StoreSettings, look: Look) -> None:
        examiner, request = self._examiner, self._request
        reached = await self._reaches("source", look, request.source_bucket)
        async with open_store(settings, session=look.session, warn=say_nothing) as store:
            if reached:
                source = SourceCheck(examiner, store)
                await examiner.examine("source", source.record)
                if source.found is not None:
                    self._source_size = source.found.size
            refused = _has_failed(examiner, "source-credentials" if self._elsewhere else "credentials")
            if request.server_path is not None and request.server_bucket != request.bucket and not refused:
                await examiner.examine("container", partial(container_record, examiner, store))

    async def _destination(self, settings: StoreSettings, look: Look) -> None:
        examiner, request = self._examiner, self._request
        reached = await self._reaches("destination", look, request.bucket)
        if _has_failed(examiner, "credentials"):
            return
        async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
            if self._log is not None:
                store = open_store(log_store(request), session=look.session, warn=say_nothing)
                tasks.start_soon(check_log, examiner, await stack.enter_async_context(store), self._log)
            if reached:
                store = open_store(settings, session=look.session, warn=say_nothing)
                tasks.start_soon(check_writing, examiner, await stack.enter_async_context(store))

    async def _reaches(self, side: str, look: Look, bucket: str) -> bool:
        """Whether anything answers for the bucket, and to these credentials; if not there is no point in asking on."""
        examiner, component = self._examiner, f"{side}-region"

        async def record() -> CheckRecord:
            try:
                found = await examiner.retrier("HeadBucket", partial(look.bucket, bucket))
            except ConfigurationError as error:
                if error.where.code not in CREDENTIALS:
                    raise
                name = "source-credentials" if side == "source" and self._elsewhere else "credentials"
                told = failed_with(name, _with_ignored(error, self._ignored[name]), self._request)
                examiner.records[name] = told
                return failed(component, f"not tried: {name} failed", code=NOT_TRIED)
            if side == "destination":
                examiner.keep(clock_record(found))
                examiner.store.server, examiner.store.is_aws = found.server, look.is_aws
            return region_record(component, bucket, found, look.region)

        if (await examiner.examine(component, record)).status != "fail":
            return True
        if examiner.records[component].code == NOT_TRIED:
            del examiner.records[component]  # it is said as of all that follows
        return False

    def _skip_the_rest(self, name: str) -> None:
        """Say of what was not come to which failure was in the way."""
        examiner, request = self._examiner, self._request
        for side in (name,) if self._elsewhere else ("source-", ""):
            way = (f"{name}credentials", f"{name}endpoint", f"{side or 'destination-'}region")
            cause = next((step for step in way if _has_failed(examiner, step)), "")
            there = destination_components(uploads=request.mode == "full")
            there = (*there, "log") if self._log is not None else there
            rest = ("source-region", "source") if side else ("destination-region", "clock", *there)
            if request.server_path is not None and bool(side) == (request.server_bucket != request.bucket):
                rest = (*rest, "container")
            examiner.skip(cause, *rest)
        examiner.skip(f"{name}credentials", f"{name}endpoint")
        if not name:
            examiner.skip("credentials", "identity")


def _has_failed(examiner: Examiner, component: str) -> bool:
    record = examiner.records.get(component)
    return record is not None and record.status == "fail"


def _with_ignored(error: E, ignored: list[str]) -> E:
    """What was ignored may be what is missing now."""
    error.what = "; ".join([error.what, *ignored])
    return error


async def _credentials(component: str, look: Look, ignored: list[str]) -> CheckRecord:
    try:
        found = await look.credentials()
    except ConfigurationError as error:
        raise _with_ignored(error, ignored) from error.__cause__
    profile = f", profile {found.profile}" if found.profile else ""
    kind = ", temporary" if found.temporary else ""
    facts: dict[str, Any] = {"method": found.method, "profile": found.profile, "temporary": found.temporary}
    message = f"from {found.source}{profile}{kind}"
    if ignored:
        # What botocore sees of it, whatever the settings made of the file's.
        fix = "unset AWS_PROFILE" if os.environ.get("AWS_PROFILE") and not found.profile else ""
        return warned(component, f"{message}; {'; '.join(ignored)}", fix=fix, **facts)
    return passed(component, message, **facts)


async def _resolves(component: str, look: Look) -> CheckRecord:
    """Whether the endpoint's name has an address."""
    url = look.endpoint_url
    try:
        proxied = await resolved(url)
    except TransientError as error:
        fix = "check --region and --endpoint-url (AWS_ENDPOINT_URL) for a typing error, and this host's DNS"
        told = look.blamed(error.__cause__) or error
        return failed(component, told.what, exit_code=told.exit_code, fix=told.hint or fix, url=url)
    return passed(component, url + (", through a proxy" if proxied else ""), url=url, aws=look.is_aws)
