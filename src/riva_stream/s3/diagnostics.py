"""Requests of ``check`` outside the port: the credentials and their owner, a bucket's region, the store's time.

Each is at most one request, tried once; nothing is changed anywhere.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from aiobotocore.config import AioConfig
from botocore.exceptions import ClientError, NoCredentialsError

from riva_stream import clock
from riva_stream.errors import RivaStreamError, TransientError, Where
from riva_stream.s3.credentials import source_of
from riva_stream.s3.errors import CREDENTIALS, translated
from riva_stream.s3.regions import RegionName
from riva_stream.s3.responses import date_of
from riva_stream.s3.session import StoreSettings, client_of, open_service, prepared
from riva_stream.uris import is_aws_url

__all__ = ["BucketInfo", "CredentialsInfo", "DiagnosticClient", "Identity", "open_diagnostic_client"]


@dataclass(frozen=True, slots=True)
class CredentialsInfo:
    """The origin of credentials, never their values."""

    source: str
    method: str
    """The SDK's own name for the source."""
    profile: str
    """The profile under which they were looked for; empty for none."""
    temporary: bool


@dataclass(frozen=True, slots=True)
class Identity:
    """The answer of GetCallerIdentity."""

    account: str
    arn: str


@dataclass(frozen=True, slots=True)
class BucketInfo:
    """The information in the answer to a HEAD of a bucket, whether or not it succeeded."""

    status: int
    region: str
    """Empty if the store does not say."""
    store_time: datetime | None
    """The answer's Date, in whole seconds; None if it is missing or malformed."""
    local_time: datetime
    """This host's clock half-way between the request and the answer."""
    server: str = ""
    """The answer's header ``Server``, verbatim; empty if there is none."""


class DiagnosticClient:
    """One session and one client, for requests that the port does not have."""

    def __init__(self, settings: StoreSettings, session: Any, client: Any) -> None:
        self._settings = settings
        self.session = session
        """For opening stores: what it has read once need not be read again."""
        self._client = client
        self.endpoint_url: str = client.meta.endpoint_url
        """The endpoint of requests; for AWS, that of the region."""
        self.region: str = client.meta.region_name or ""
        self.is_aws = is_aws_url(self.endpoint_url)
        self.blamed = partial(RegionName.of(session, client).blamed, self.endpoint_url)
        """Returns the error for a failure of the resolver if the region's name is to blame; else None."""

    async def credentials(self) -> CredentialsInfo:
        """The origin of the credentials.

        Raises:
            ConfigurationError: there are none.
        """
        if self._settings.unsigned:
            return CredentialsInfo("none: requests are not signed", "unsigned", profile="", temporary=False)
        core = self.session._session  # noqa: SLF001 - aioboto3 gives credentials without their origin
        with translated("GetCredentials", ""):
            found = await core.get_credentials()
            if found is None:
                raise NoCredentialsError  # the same error, so the same message, as for any request
            frozen = await found.get_frozen_credentials()
        return CredentialsInfo(
            source=source_of(found.method),
            method=found.method,
            profile=core.get_config_variable("profile") or "",
            temporary=bool(frozen.token),
        )

    async def identity(self, resolved: Callable[[str], Awaitable[Any]]) -> Identity | None:
        """The identity of the credentials, by STS; None if the endpoint is not AWS and none is set for STS.

        Args:
            resolved: returns when a URL's host has an address, or raises; cancellable, unlike the SDK's resolver.
        """
        # botocore's own variable, not one of our settings.
        if not self.is_aws and not os.environ.get("AWS_ENDPOINT_URL_STS"):
            return None
        loader = self.session._session.get_component("data_loader")  # noqa: SLF001 - as in session.prepared
        for kind in ("service-2", "endpoint-rule-set-1"):
            await clock.in_thread(partial(loader.load_service_model, "sts", kind, api_version=None))
        bundle = self._settings.ca_bundle
        arguments = {
            "config": AioConfig(retries={"mode": "standard", "total_max_attempts": 1}),
            "region_name": self._client.meta.region_name,
            "verify": bundle and str(bundle),
        }
        with translated("GetCallerIdentity", ""):
            async with open_service(self.session, "sts", arguments) as client:
                await resolved(client.meta.endpoint_url)
                answer = await client.get_caller_identity()
        return Identity(account=answer.get("Account", ""), arn=answer.get("Arn", ""))

    async def bucket(self, bucket: str) -> BucketInfo:
        """HEAD a bucket. A refusal is an answer, too: it has a region and a time.

        Raises:
            ConfigurationError: the request cannot be made (no credentials, an untrusted certificate), or the store
                rejects the credentials: then ``where.code`` is one of ``s3.errors.CREDENTIALS``.
            TransientError: nothing answers, or the answer is not HTTP.
        """
        began = clock.now()
        with translated("HeadBucket", bucket):
            try:
                answer = await self._client.head_bucket(Bucket=bucket)
            except ClientError as error:
                answer = error.response
                await self._refused(bucket, error)
        ended = clock.now()
        meta = answer.get("ResponseMetadata", {})
        headers = meta.get("HTTPHeaders", {})
        status = int(meta.get("HTTPStatusCode") or 0)
        if not status:
            raise TransientError("the answer has no status", where=Where("HeadBucket", bucket))
        return BucketInfo(
            status=status,
            region=headers.get("x-amz-bucket-region") or answer.get("BucketRegion") or "",
            store_time=date_of(headers),
            local_time=began + (ended - began) / 2,
            server=headers.get("server", ""),
        )

    async def _refused(self, bucket: str, error: ClientError) -> None:
        """Ask once more, by a request whose refusal has a body: a HEAD's has none to give the reason.

        Raises:
            ConfigurationError: the store rejects the credentials.
        """
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") not in {400, 401, 403}:
            return
        try:
            with translated("ListObjectsV2", bucket):
                await self._client.list_objects_v2(Bucket=bucket, MaxKeys=1)
        except RivaStreamError as reason:
            if reason.where.code in CREDENTIALS:
                raise


@asynccontextmanager
async def open_diagnostic_client(
    settings: StoreSettings, *, session: Any = None, warn: Callable[[str], None]
) -> AsyncIterator[DiagnosticClient]:
    """A client for diagnostics, which is closed at the end.

    Args:
        settings: where and how.
        session: the caller's own ``aioboto3.Session``; None creates one, as for a store.
        warn: called with what was ignored.

    Raises:
        ConfigurationError: as ``session.open_store`` says.
        StalledError: the same.
    """
    async with AsyncExitStack() as stack:
        made = await prepared(settings, session, warn)
        with translated("CreateClient", ""):
            client = await stack.enter_async_context(client_of(made, settings))
        yield DiagnosticClient(settings, made, client)
