"""Sessions and clients: credentials, profile, region, endpoint, connection pool and timeouts."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import aioboto3
import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession
from botocore import UNSIGNED
from botocore.configprovider import ConfiguredEndpointProvider
from botocore.exceptions import BotoCoreError
from botocore.loaders import Loader, create_loader

from riva_stream import clock
from riva_stream.arguments import require
from riva_stream.errors import ConfigurationError, Where, out_of_resources
from riva_stream.s3.body import SIGNER
from riva_stream.s3.client import S3Store
from riva_stream.s3.config_files import understood_values
from riva_stream.s3.credentials import Warn, guard, resolve
from riva_stream.s3.errors import translated
from riva_stream.s3.options import Addressing, WriteOptions
from riva_stream.s3.proxy import check_proxy
from riva_stream.s3.regions import RegionName
from riva_stream.s3.rules import keep_raw_lifecycle
from riva_stream.s3.transport_errors import transport_error
from riva_stream.s3.windows import WINDOWED, choose_window, without_signed_url
from riva_stream.uris import is_aws_url

__all__ = [
    "StoreSettings",
    "client_of",
    "open_service",
    "open_store",
    "prepared",
    "require_session",
]


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """One endpoint and how to reach it. Times are in seconds."""

    region: str | None = None
    endpoint_url: str | None = None
    profile: str | None = None
    """None: AWS_PROFILE, which is ignored if no such profile exists."""
    ca_bundle: Path | None = None
    addressing: Addressing = "auto"
    unsigned: bool = False
    """Whether requests are unsigned, and no credentials are looked up."""
    connections: int = 16
    read_timeout: float = 60.0
    credentials_timeout: float = 60.0
    """Time limit for the provider of the credentials, a helper or a metadata service."""
    options: WriteOptions = field(default_factory=WriteOptions)


@asynccontextmanager
async def open_store(settings: StoreSettings, *, session: Any = None, warn: Warn) -> AsyncIterator[S3Store]:
    """A store behind one client, which is closed at the end.

    Args:
        settings: where and how.
        session: the caller's own ``aioboto3.Session``, with the caller's credentials; None creates one.
        warn: called with what was ignored.

    Raises:
        ConfigurationError: no usable credentials, no region, an unknown profile that was requested, an AWS
            configuration that cannot be parsed, a bad CA bundle.
        StalledError: the provider of the credentials does not answer.
        TypeError: an argument is of the wrong kind.
    """
    require(isinstance(settings, StoreSettings), "settings", "StoreSettings", settings)
    require(callable(warn), "warn", "callable with one text", warn)
    require_session("session", session)
    async with AsyncExitStack() as stack:

        async def open_client() -> Any:
            made = await prepared(settings, session, warn)
            with translated("CreateClient", ""):
                client = await stack.enter_async_context(client_of(made, settings))
            for operation in WINDOWED:  # before the next one: the first hook that chooses wins
                client.meta.events.register(f"choose-signer.s3.{operation}", choose_window)
            for operation in ("PutObject", "UploadPart"):
                client.meta.events.register(f"choose-signer.s3.{operation}", _choose_signer)
                client.meta.events.register(f"before-call.s3.{operation}", _no_expect)
            keep_raw_lifecycle(client)
            RegionName.of(made, client).watch(client)
            return client

        client = await open_client()
        store = S3Store(
            client, is_aws=is_aws_url(client.meta.endpoint_url), options=settings.options, reopen=open_client
        )
        try:
            yield store
        finally:
            store.close()


def require_session(name: str, value: object) -> None:
    """Refuse an argument that is neither None nor an ``aioboto3.Session``.

    Raises:
        TypeError: it is the session of another library, for example.
    """
    require(value is None or isinstance(value, aioboto3.Session), name, "an aioboto3.Session", value)


class _SentOnce(AIOHTTPSession):  # type: ignore[misc]
    """Sends each request once.

    aiohttp by itself resends a PUT or DELETE at once when a kept-alive connection breaks (RFC 9112, section 9.3.1
    permits it). In between this process may have been suspended for minutes, and on a store without conditional writes
    the second request would undo what another run has done meanwhile: our retrier looks before it asks again.
    """

    async def _get_session(self, proxy_url: str | None) -> Any:
        session = await super()._get_session(proxy_url)
        session._retry_connection = False  # noqa: SLF001 - aiohttp has no public name for it
        return session

    async def send(self, request: Any) -> Any:
        """Send the request; an error never quotes a signed URL."""
        try:
            return await super().send(request)
        except (BotoCoreError, aiohttp.ClientError) as error:
            told = without_signed_url(error)
            if told is None:
                raise
        # Outside the handler, so that the error that quotes it is not in this one's context.
        raise told


async def prepared(settings: StoreSettings, session: Any, warn: Warn) -> Any:
    """A session whose files have been read, and whose credentials were found and are usable.

    Args:
        settings: where and how.
        session: the caller's own; None creates one.
        warn: called with what was ignored.

    Raises:
        ConfigurationError: as :func:`open_store` says.
        StalledError: the same.
    """
    made = session
    if made is None:
        made, ignored = await clock.in_thread(_make_session, settings, abandon_on_cancel=True)
        if ignored:
            warn(ignored)
    core = made._session  # noqa: SLF001 - aioboto3 has no other way to it
    if session is None:
        with understood_values(core):
            guard(core, limit=settings.credentials_timeout, warn=warn)
    # This reads botocore's service files (some 100 ms): in a thread, so that the loop keeps running.
    await clock.in_thread(_warm, made, settings, abandon_on_cancel=True)
    if not settings.unsigned:
        await resolve(core, ours=session is None, limit=settings.credentials_timeout, warn=warn)
    return made


def _make_session(settings: StoreSettings) -> tuple[Any, str]:
    """The session, with the requested profile, and what was ignored in creating it."""
    # The profile that botocore would use by itself: the command line puts its setting there.
    inherited = os.environ.get("AWS_PROFILE") or None
    # A requested profile must exist and takes precedence over keys in the environment; an inherited one must not stop a
    # run that has other credentials. By itself botocore fails on an AWS_PROFILE that is empty or unknown.
    asked_for = settings.profile if settings.profile != inherited else None
    name, ignored = asked_for or inherited, ""
    core = AioSession(session_vars={"profile": (None, None, None, None)})
    with translated("ReadConfiguration", ""):
        core.full_config  # noqa: B018 - it is kept by the session
    if name is not None:
        with translated("LoadProfile", ""):
            known = core.available_profiles
        if name in known:
            core = AioSession(session_vars={"profile": (None, None, inherited, None)})
            if asked_for:
                core.set_config_variable("profile", asked_for)
        elif asked_for:
            raise ConfigurationError(
                f"there is no profile {name!r} in the AWS configuration",
                hint=f"known profiles: {', '.join(known) or 'none'}; or leave it out, and set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or run where a role gives some",
            )
        else:
            ignored = f"AWS_PROFILE names {name!r}, which is in no AWS configuration file: it is ignored"
    session = aioboto3.Session(botocore_session=core)
    with understood_values(core):
        loader = _loader_of(core.get_config_variable("data_path"))
    core.register_component(
        "data_loader", loader
    )  # after the session, which adds a path of its own to the previous loader
    return session, ignored


@lru_cache(maxsize=4)
def _loader_of(data_path: str | None) -> Loader:
    """The loader of the SDK's models, which caches them: once for all sessions of this process, not 60 ms for each."""
    return create_loader(data_path)


def _warm(session: Any, settings: StoreSettings) -> None:
    """Read the files that the SDK reads when a client is created. Blocks; for a worker thread."""
    core = session._session  # noqa: SLF001 - aioboto3 offers no other way to its loader
    loader = core.get_component("data_loader")
    for kind in ("service-2", "endpoint-rule-set-1"):
        loader.load_service_model("s3", kind, api_version=None)  # the loader caches by these exact arguments
    for name in ("endpoints", "partitions", "sdk-default-configuration", "_retry"):
        loader.load_data(name)
    with understood_values(core):
        bundle = settings.ca_bundle or core.get_config_variable("ca_bundle")
    # Opening a pipe would block; a directory is not loaded without TLS, and refused with it.
    if bundle and Path(bundle).exists() and not (Path(bundle).is_file() or Path(bundle).is_dir()):
        raise ConfigurationError(
            f"the CA bundle {bundle} is not a regular file",
            hint="check --ca-bundle, AWS_CA_BUNDLE and ca_bundle in the AWS configuration",
        )
    if settings.ca_bundle is not None:
        try:
            ssl.create_default_context(cafile=str(settings.ca_bundle))
        except OSError as error:  # including TLS errors
            if out_of_resources(error):
                raise transport_error(error, Where(operation="LoadCABundle")) from error
            raise ConfigurationError(
                f"the CA bundle {settings.ca_bundle} cannot be read: {error}",
                where=Where(operation="LoadCABundle"),
                hint="check --ca-bundle",
            ) from error


@asynccontextmanager
async def client_of(session: Any, settings: StoreSettings) -> AsyncIterator[Any]:
    """A client of a session that :func:`prepared` returned."""
    core = session._session  # noqa: SLF001 - aioboto3 has no other way to it
    with understood_values(core):
        arguments = _client_arguments(settings, core)
    async with open_service(session, "s3", arguments) as client:
        check_proxy(client.meta.endpoint_url)
        if settings.options.request_payer is not None:
            client.meta.events.register(
                "provide-client-params.s3", partial(_pay, settings.options.request_payer)
            )
        yield client


@asynccontextmanager
async def open_service(session: Any, service: str, arguments: dict[str, Any]) -> AsyncIterator[Any]:
    """A client of a session, for one service.

    Raises:
        ConfigurationError: the AWS configuration has a value that the SDK cannot use.
    """
    async with AsyncExitStack() as stack:
        with understood_values(session._session):  # noqa: SLF001 - as in prepared
            client = await stack.enter_async_context(session.client(service, **arguments))
        yield client


def _client_arguments(settings: StoreSettings, core: Any) -> dict[str, Any]:
    """The arguments with which every client is created."""
    s3: dict[str, Any] = {"payload_signing_enabled": False}
    endpoint_url = settings.endpoint_url or _configured_endpoint(core)
    if (style := _addressing(settings, core, has_endpoint=endpoint_url is not None)) is not None:
        s3["addressing_style"] = style
    region = settings.region or core.get_config_variable("region")
    if region is None and endpoint_url is not None:
        region = "us-east-1"  # a store other than AWS mostly has no regions, but a signature must name one
    config = AioConfig(
        region_name=region,
        signature_version=UNSIGNED if settings.unsigned else None,
        connect_timeout=10.0,
        read_timeout=settings.read_timeout,
        max_pool_connections=settings.connections,
        retries={"mode": "standard", "total_max_attempts": 1},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3=s3,
        http_session_cls=_SentOnce,
    )
    return {
        "config": config,
        "region_name": region,
        "endpoint_url": settings.endpoint_url,
        "verify": settings.ca_bundle and str(settings.ca_bundle),
    }


def _configured_endpoint(core: Any) -> str | None:
    """The endpoint from the AWS configuration or the environment, which the SDK uses if it is given none."""
    if core.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    found: str | None = ConfiguredEndpointProvider(
        core.full_config, core.get_scoped_config(), client_name="s3"
    ).provide()
    return found


def _addressing(settings: StoreSettings, core: Any, *, has_endpoint: bool) -> str | None:
    """How the bucket is put into a URL; None leaves it to the SDK and the AWS configuration."""
    if settings.addressing != "auto":
        return settings.addressing
    configured = core.get_scoped_config().get("s3")
    if not has_endpoint or (isinstance(configured, dict) and configured.get("addressing_style")):
        return None
    return "path"


def _pay(payer: str, params: dict[str, Any], model: Any, **_: Any) -> dict[str, Any]:
    """Add the request payer to every operation that supports it."""
    return params | {"RequestPayer": payer} if "RequestPayer" in model.input_shape.members else params


def _choose_signer(signature_version: Any = None, **_: Any) -> str | None:
    """Use the hash that the body provides, wherever plain SigV4 would sign."""
    return SIGNER if signature_version in {"v4", "s3v4"} else None


def _no_expect(params: dict[str, Any], **_: Any) -> None:
    """Save a round trip per part: permissions were tested when the upload was created."""
    params["headers"].pop("Expect", None)
