"""``check``: would a run succeed, and if not, what prevents it?

Everything that a run needs is tried once, concurrently where nothing depends on something else, each with its own time
limit; everything written for that is removed again. A check that fails produces a record, never an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from riva_stream import clock
from riva_stream.config import StageRequest
from riva_stream.errors import ConfigurationError, RivaStreamError, StalledError, TransientError, first_of
from riva_stream.log_delivery import log_store
from riva_stream.log_place import LogPlace
from riva_stream.pipeline.stores import destination_settings, is_elsewhere, source_settings
from riva_stream.preflight.check_runner import CheckRunner
from riva_stream.preflight.destination import check_writing
from riva_stream.preflight.endpoint import clock_record, region_record, resolved
from riva_stream.preflight.host import check_files, check_memory, check_state, check_versions
from riva_stream.preflight.log import check_log
from riva_stream.preflight.report import (
    NOT_TRIED,
    CheckRecord,
    CheckReport,
    destination_components,
    failed,
    failed_with,
    not_tried,
    passed,
    report_of,
    warned,
)
from riva_stream.preflight.source import container_record, source_record
from riva_stream.retry import Retrier, RetryPolicy
from riva_stream.s3 import StoreSettings, open_store
from riva_stream.s3.diagnostics import DiagnosticClient, open_diagnostic_client
from riva_stream.s3.errors import CREDENTIALS
from riva_stream.s3.scratch import discard_message

__all__ = ["check", "check_host"]

_IDENTITY_SECONDS = 2.0


async def check(
    request: StageRequest,
    settled: CheckRecord,
    *,
    run_id: str = "",
    limit: float = 10.0,
    log: LogPlace | None = None,
) -> CheckReport:
    """Try everything that a run of ``request`` needs.

    Args:
        request: what would be staged.
        settled: the record of the settings that the request was made from.
        run_id: for the report.
        limit: seconds that each check may take. A clean-up may take as long again.
        log: where the copy of the run's log would go.
    """
    began = clock.monotonic()
    runner = CheckRunner(request, limit, Retrier(RetryPolicy(retries=2, base=0.1, cap=0.5)))
    runner.add(settled)
    async with anyio.create_task_group() as tasks:
        for record in (
            partial(check_files, request.connections),
            partial(check_state, request.state_dir or Path("state")),
            check_versions,
        ):
            tasks.start_soon(_on_this_host, runner, record)
        await _Stores(runner, log).check()
    return report_of(request, run_id, runner.records.values(), clock.monotonic() - began)


async def check_host(settled: CheckRecord, *, state_dir: Path, run_id: str) -> CheckReport:
    """Check what can be checked without settings, when these are wrong: this host alone."""
    began = clock.monotonic()
    records = [await clock.in_thread(check) for check in (partial(check_state, state_dir), check_versions)]
    return report_of(None, run_id, [settled, *records], clock.monotonic() - began)


async def _on_this_host(runner: CheckRunner, check: Any) -> None:
    runner.add(await clock.in_thread(check, abandon_on_cancel=True))


@dataclass(eq=False)
class _Stores:
    """The part that needs the network."""

    runner: CheckRunner
    log: LogPlace | None
    ignored: dict[str, list[str]] = field(default_factory=dict, init=False)
    """What was ignored while looking for credentials, by the component of their record."""

    def __post_init__(self) -> None:
        self.request = self.runner.request
        self.elsewhere = is_elsewhere(self.request)

    async def check(self) -> None:
        request, runner = self.request, self.runner
        async with anyio.create_task_group() as tasks:
            if self.elsewhere:
                tasks.start_soon(self._side, source_settings(request), "source-", self._source)
                tasks.start_soon(self._side, destination_settings(request), "", self._destination)
            else:
                tasks.start_soon(
                    self._side, destination_settings(request), "", self._source, self._destination
                )
        needed = (runner.source_size, runner.store.most_parts)
        part_size, forced = request.part_size_for(*needed), request.why_larger(*needed)
        runner.add(await clock.in_thread(partial(check_memory, request.memory, part_size, forced=forced)))

    async def _side(
        self,
        settings: StoreSettings,
        name: str,
        *parts: Callable[[StoreSettings, DiagnosticClient], Coroutine[Any, Any, None]],
    ) -> None:
        """Check one endpoint: first its credentials, as without them everything else fails alike, then its address."""
        runner, credentials, endpoint = self.runner, f"{name}credentials", f"{name}endpoint"
        ignored = self.ignored[credentials] = []
        limited = replace(settings, credentials_timeout=runner.limit)
        try:
            async with (
                open_diagnostic_client(limited, warn=ignored.append) as client,
                anyio.create_task_group() as tasks,
            ):
                found = await runner.run(credentials, partial(_credentials, credentials, client, ignored))
                if found.status != "fail":
                    if not name:
                        tasks.start_soon(self._identify, client)
                    found = await runner.run(endpoint, partial(_resolves, endpoint, client))
                for part in parts if found.status != "fail" else ():
                    tasks.start_soon(part, settings, client)
        except* (ConfigurationError, StalledError) as group:
            # A client cannot be created: credentials, the CA bundle, open files.
            error = first_of(group)
            assert isinstance(error, RivaStreamError)  # noqa: S101 - as was asked for
            told = _with_ignored(error, ignored)
            runner.records[credentials] = failed_with(credentials, told, self.request)
        self._skip_the_rest(name)

    async def _identify(self, client: DiagnosticClient) -> None:
        """Identify the credentials: never more than a warning, never longer than two seconds."""
        less = "who the credentials are is not known; that by itself stops no run"
        try:
            with anyio.fail_after(min(_IDENTITY_SECONDS, self.runner.limit)):
                identity = await client.identity(resolved)
        except TimeoutError:
            record = warned("identity", f"STS gave no answer within {_IDENTITY_SECONDS:g} s: {less}")
        except Exception as error:  # noqa: BLE001 - whatever STS does, it only ever warns
            record = warned("identity", f"{getattr(error, 'what', error)}: {less}")
        else:
            record = (
                passed(
                    "identity",
                    "skipped: the endpoint is not AWS (AWS_ENDPOINT_URL_STS would name one to ask)",
                )
                if identity is None
                else passed("identity", identity.arn, account=identity.account, arn=identity.arn)
            )
        self.runner.add(record)

    async def _source(self, settings: StoreSettings, client: DiagnosticClient) -> None:
        runner, request = self.runner, self.request
        reached = await self._reaches("source", client, request.source_bucket)
        async with open_store(settings, session=client.session, warn=discard_message) as store:
            if reached:
                await runner.run("source", partial(source_record, runner, store))
            refused = ("source-credentials" if self.elsewhere else "credentials") in runner.failed
            if request.server_path is not None and request.server_bucket != request.bucket and not refused:
                await runner.run("container", partial(container_record, runner, store))

    async def _destination(self, settings: StoreSettings, client: DiagnosticClient) -> None:
        runner, request = self.runner, self.request
        reached = await self._reaches("destination", client, request.bucket)
        if "credentials" in runner.failed:
            return
        async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
            if self.log is not None:
                store = open_store(log_store(request), session=client.session, warn=discard_message)
                tasks.start_soon(check_log, runner, await stack.enter_async_context(store), self.log)
            if reached:
                store = open_store(settings, session=client.session, warn=discard_message)
                tasks.start_soon(check_writing, runner, await stack.enter_async_context(store))

    async def _reaches(self, side: str, client: DiagnosticClient, bucket: str) -> bool:
        """Whether the bucket answers, and accepts these credentials; if not, further checks are pointless."""
        runner, component = self.runner, f"{side}-region"

        async def record() -> CheckRecord:
            try:
                found = await runner.retrier("HeadBucket", partial(client.bucket, bucket))
            except ConfigurationError as error:
                if error.where.code not in CREDENTIALS:
                    raise
                name = "source-credentials" if side == "source" and self.elsewhere else "credentials"
                runner.records[name] = failed_with(
                    name, _with_ignored(error, self.ignored[name]), self.request
                )
                return not_tried(component, name)
            if side == "destination":
                runner.add(clock_record(found))
                runner.store.server, runner.store.is_aws = found.server, client.is_aws
            return region_record(component, bucket, found, client.region)

        reached = await runner.run(component, record)
        return reached.status != "fail" and reached.code != NOT_TRIED

    def _skip_the_rest(self, name: str) -> None:
        """Mark the checks that did not run, naming the failure that blocked them."""
        runner, request = self.runner, self.request
        for side in (name,) if self.elsewhere else ("source-", ""):
            way = (f"{name}credentials", f"{name}endpoint", f"{side or 'destination-'}region")
            cause = next((step for step in way if step in runner.failed), "")
            there = destination_components(uploads=request.mode == "full")
            there = (*there, "log") if self.log is not None else there
            rest = ("source-region", "source") if side else ("destination-region", "clock", *there)
            if request.server_path is not None and bool(side) == (request.server_bucket != request.bucket):
                rest = (*rest, "container")
            runner.skip(cause, *rest)
        runner.skip(f"{name}credentials", f"{name}endpoint")
        if not name:
            runner.skip("credentials", "identity")


def _with_ignored(error: RivaStreamError, ignored: list[str]) -> RivaStreamError:
    """Add what was ignored to the error: the cause may be there."""
    error.what = "; ".join([error.what, *ignored])
    return error


async def _credentials(component: str, client: DiagnosticClient, ignored: list[str]) -> CheckRecord:
    try:
        found = await client.credentials()
    except ConfigurationError as error:
        raise _with_ignored(error, ignored) from error.__cause__
    profile = f", profile {found.profile}" if found.profile else ""
    kind = ", temporary" if found.temporary else ""
    facts: dict[str, Any] = {"method": found.method, "profile": found.profile, "temporary": found.temporary}
    message = f"from {found.source}{profile}{kind}"
    if ignored:
        # AWS_PROFILE as botocore sees it, whatever the settings did with the file's.
        fix = "unset AWS_PROFILE" if os.environ.get("AWS_PROFILE") and not found.profile else ""
        return warned(component, f"{message}; {'; '.join(ignored)}", fix=fix, **facts)
    return passed(component, message, **facts)


async def _resolves(component: str, client: DiagnosticClient) -> CheckRecord:
    """Whether the endpoint's name has an address."""
    url = client.endpoint_url
    try:
        proxied = await resolved(url)
    except TransientError as error:
        fix = "check --region and --endpoint-url (AWS_ENDPOINT_URL) for a typing error, and this host's DNS"
        told = client.blamed(error.__cause__) or error
        return failed(component, told.what, exit_code=told.exit_code, fix=told.hint or fix, url=url)
    return passed(component, url + (", through a proxy" if proxied else ""), url=url, aws=client.is_aws)
