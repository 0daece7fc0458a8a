"""Credentials: the SDK's own provider chain, with a guard around each link.

Credentials are checked before any request carries them, so that a line break at the end of a key does not appear as a
broken connection. Failures on this host while looking for them are reported as what they are: a helper that is missing,
that prints no JSON, that hangs. Later renewals are guarded in the same way.
"""

from __future__ import annotations

import inspect
import json
import math
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from aiobotocore.credentials import (
    AioAssumeRoleWithWebIdentityProvider,
    AioContainerProvider,
    AioProcessProvider,
    AioRefreshableCredentials,
)
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import NoCredentialsError

from riva_stream.errors import ConfigurationError, RivaStreamError, StalledError, Where
from riva_stream.files import read_regular
from riva_stream.naming import option
from riva_stream.s3.errors import translated
from riva_stream.s3.helper import start_helper
from riva_stream.s3.transport_errors import is_local

__all__ = ["guard", "resolve", "source_of"]

_SOURCES = {
    "env": "environment variables (or .env)",
    "explicit": "the caller",
    "shared-credentials-file": "the credentials file",
    "config-file": "the AWS configuration file",
    "boto-config": "the boto configuration file",
    "assume-role": "a role that the profile assumes",
    "assume-role-with-web-identity": "a web identity token",
    "sso": "a sign-in by SSO",
    "login": "a sign-in by `aws login`",
    "custom-process": "the credential process of the profile",
    "container-role": "the role of the container",
    "iam-role": "the role of the EC2 instance",
}
_WORDS = {
    "access_key": ("the access key id", "AWS_ACCESS_KEY_ID"),
    "secret_key": ("the secret access key", "AWS_SECRET_ACCESS_KEY"),
    "token": ("the session token", "AWS_SESSION_TOKEN"),
}
_WHERE = Where(operation="GetCredentials")
_LATIN_1, _DELETE = 0xFF, 0x7F
_LONGEST_TOKEN = 1 << 20

Warn = Callable[[str], None]


def source_of(method: str) -> str:
    """The source of credentials, in words; ``method`` is the SDK's own name for it."""
    return _SOURCES.get(method, method)


def guard(core: Any, *, limit: float, warn: Warn) -> None:
    """Put the guard into a session's chain of credentials, before anything is looked up.

    Args:
        core: the underlying botocore session.
        limit: seconds that a link of the chain may take.
        warn: called with what was ignored.
    """
    resolver = core.get_component("credential_provider")
    for provider in resolver.providers:
        _prepare(provider)
        # The factories for the links of a source_profile, when one is reached; the SDK has no hook for that.
        if (builder := getattr(provider, "_profile_provider_builder", None)) is not None:
            for name in ("_create_process_provider", "_create_web_identity_provider"):
                setattr(builder, name, partial(_make_prepared, getattr(builder, name)))
    resolver.providers = [_Guarded(provider, limit, warn) for provider in resolver.providers]


async def resolve(core: Any, *, ours: bool, limit: float, warn: Warn) -> None:
    """Find and check the credentials of a session, before a client exists.

    Args:
        core: the underlying botocore session.
        ours: whether the session has the guard; a caller's own may have no credentials, or get them later.
        limit: seconds that it may take.
        warn: called with what was ignored.

    Raises:
        ConfigurationError: there are none, they cannot be obtained, or no request can carry them.
        StalledError: it took too long.
    """
    # The guard has its own limit, and knows better which link does not answer.
    async with _within(math.inf if ours else limit, "the credential provider"):
        with _reporting_failures("the credentials"), translated(_WHERE.operation, ""):
            found = await core.get_credentials()
            if found is None:
                if ours:
                    raise NoCredentialsError  # the same error, so the same message, as for any request
                return
            frozen = await found.get_frozen_credentials()
    values = {name: getattr(frozen, name) for name in _WORDS}
    cleaned = _cleaned(values, found.method, warn)
    if cleaned != values and not isinstance(found, AioRefreshableCredentials):
        for name, value in cleaned.items():
            setattr(found, name, value)


class _Guarded:
    """One link of the chain."""

    def __init__(self, provider: Any, limit: float, warn: Warn) -> None:
        self._provider = provider
        self._limit = limit
        self._warn = warn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    async def load(self) -> Any:
        """The credentials of the link; None if it has none."""
        found = await self._load_within_limit(self._provider.load)
        if isinstance(found, AioRefreshableCredentials):
            found._refresh_using = partial(self._refreshed, found._refresh_using)  # noqa: SLF001 - no hook for it
            if found._access_key is not None:  # noqa: SLF001 - None: nothing was asked for yet
                values = {name: getattr(found, f"_{name}") for name in _WORDS}
                cleaned = _cleaned(values, found.method, self._warn)
                for name, value in cleaned.items():
                    setattr(found, f"_{name}", value)
                account = found._frozen_credentials.account_id  # noqa: SLF001
                found._frozen_credentials = ReadOnlyCredentials(**cleaned, account_id=account)  # noqa: SLF001
        elif found is not None:
            values = {name: getattr(found, name) for name in _WORDS}
            for name, value in _cleaned(values, found.method, self._warn).items():
                setattr(found, name, value)
        return found

    async def _refreshed(self, refresh: Callable[[], Any]) -> dict[str, Any]:
        async def act() -> Any:
            data = refresh()
            return await data if inspect.isawaitable(data) else data

        data = dict(await self._load_within_limit(act))
        values = {name: data.get(name) for name in _WORDS}
        return data | _cleaned(values, self._provider.METHOD, self._warn)

    async def _load_within_limit(self, act: Callable[[], Any]) -> Any:
        source = source_of(self._provider.METHOD)
        async with _within(self._limit, source):
            with _reporting_failures(source), translated(_WHERE.operation, ""):
                return await act()


@asynccontextmanager
async def _within(seconds: float, source: str) -> AsyncIterator[None]:
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise StalledError(
            f"timed out after {seconds:g} s waiting for credentials from {source}",
            where=_WHERE,
            hint="try the helper of the profile (credential_process) by hand, and the network of the metadata service; "
            f"or give it longer with {option('timeout')} (check: --limit)",
        )


@contextmanager
def _reporting_failures(source: str) -> Iterator[None]:
    """Report failures on this host as such. What a helper prints as its answer is never quoted."""
    try:
        yield
    except RivaStreamError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or not is_local(cause):
            raise
        file = f"{cause.filename}: " if cause.filename else ""
        raise _unusable(source, f"{file}{cause.strerror}") from cause
    except json.JSONDecodeError as error:
        raise _unusable(source, "its output is not JSON") from error
    except UnicodeError as error:
        raise _unusable(source, "its output is not UTF-8") from error
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise _unusable(source, f"its output cannot be understood ({type(error).__name__})") from error


def _unusable(source: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"there are no usable credentials: {source}: {reason}",
        where=_WHERE,
        hint="check the profile in the AWS configuration (credential_process and the program it names), or set "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    )


def _cleaned(values: dict[str, Any], method: str, warn: Warn) -> dict[str, Any]:
    """The values without surrounding whitespace.

    Raises:
        ConfigurationError: one is missing, or contains something that no request can carry.
    """
    cleaned = {}
    for name, value in values.items():
        words, variable = _WORDS[name]
        if name == "token" and value in (None, ""):
            cleaned[name] = value
            continue
        if not isinstance(value, str) or not value.strip():
            raise _unusable(source_of(method), f"{words} is empty or is not text")
        if (stripped := value.strip()) != value:
            warn(f"blanks or line breaks around {words} ({source_of(method)}) are ignored")
        if odd := next(filter(None, map(partial(_oddity, name), stripped)), ""):
            raise ConfigurationError(
                f"{words} has {odd} in it, which no request can carry",
                where=_WHERE,
                hint=f"it comes from {source_of(method)}: copy it again ({variable})",
            )
        cleaned[name] = stripped
    return cleaned


def _oddity(name: str, letter: str) -> str:
    """The problem with one character; "" for none. A secret is only hashed, so it may contain blanks."""
    code, is_secret = ord(letter), name == "secret_key"
    rows = (
        # a surrogate: a byte of the environment that was not UTF-8
        (0xD800 <= code <= 0xDFFF, "something that is not UTF-8"),  # noqa: PLR2004
        (letter in "\r\n", "a line break"),
        (code < ord(" ") or code == _DELETE, "a control character"),
        (code > (_LATIN_1 if is_secret else _DELETE), "a character that a key cannot contain"),
        (letter.isspace() and not (is_secret and letter == " "), "a blank"),
    )
    return next((kind for is_odd, kind in rows if is_odd), "")


def _prepare(provider: Any) -> Any:
    """End a helper together with us, and never wait for a file; the chain does not pass these arguments on."""
    if isinstance(provider, AioProcessProvider):
        provider._popen = start_helper  # noqa: SLF001
    elif isinstance(provider, AioAssumeRoleWithWebIdentityProvider):
        provider._token_loader_cls = lambda path: partial(_web_identity_token, path)  # noqa: SLF001
    elif isinstance(provider, AioContainerProvider):
        provider._build_headers = partial(_headers, provider, provider._build_headers)  # noqa: SLF001
    return provider


def _make_prepared(make: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return _prepare(make(*args, **options))


def _web_identity_token(path: str) -> str:
    """Replacement for the SDK's loader, which opens any file: a pipe would block the event loop."""
    return _token_in(path, AioAssumeRoleWithWebIdentityProvider.METHOD).decode()


def _headers(provider: Any, build: Callable[[], Any]) -> Any:
    # where botocore itself looks for it next
    if (path := os.environ.get(provider.ENV_VAR_AUTH_TOKEN_FILE)) is not None:
        _token_in(path, provider.METHOD)
    return build()


def _token_in(path: str, method: str) -> bytes:
    try:
        return read_regular(Path(path), _LONGEST_TOKEN)
    except OSError as error:
        raise _unusable(source_of(method), f"{path}: {error.strerror}") from error
