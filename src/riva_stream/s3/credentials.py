"""Credentials: the SDK's own chain, with a guard around each link of it.

What is found is looked at before any request carries it, so that a line break at the end of a key is no broken
connection. What goes wrong on this host while it is looked for is told as what it is: a helper that is not there, that
prints no JSON, that hangs. Later renewals go the same way.
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
    """Where credentials come from, for a person; ``method`` is the SDK's own name for that."""
    return _SOURCES.get(method, method)


def guard(core: Any, *, limit: float, warn: Warn) -> None:
    """Put the guard into a session's chain of credentials, before anything is looked for.

    Args:
        core: the session that botocore knows.
        limit: seconds that a link of the chain may take.
        warn: is told what was ignored.
    """
    resolver = core.get_component("credential_provider")
    for provider in resolver.providers:
        _prepare(provider)
        # What makes the links of a source_profile, when it is come to; the SDK has no hook for it.
        if (builder := getattr(provider, "_profile_provider_builder", None)) is not None:
            for name in ("_create_process_provider", "_create_web_identity_provider"):
                setattr(builder, name, partial(_made, getattr(builder, name)))
    resolver.providers = [_Guarded(provider, limit, warn) for provider in resolver.providers]


async def resolve(core: Any, *, ours: bool, limit: float, warn: Warn) -> None:
    """Find the credentials of a session and look at them, before there is a client.

    Args:
        core: the session that botocore knows.
        ours: whether it has the guard; a caller's own may do without credentials, or bring them later.
        limit: seconds that it may take.
        warn: is told what was ignored.

    Raises:
        ConfigurationError: there are none, they cannot be had, or no request can carry them.
        StalledError: it took too long.
    """
    # The guard has a limit of its own, and knows better who does not answer.
    async with _within(math.inf if ours else limit, "what gives the credentials"):
        with _obtained("the credentials"), translated(_WHERE.operation, ""):
            found = await core.get_credentials()
            if found is None:
                if ours:
                    raise NoCredentialsError  # as any request would, and so in the same words
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
        """What the link has; None where it has nothing."""
        found = await self._obtained(self._provider.load)
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

        data = dict(await self._obtained(act))
        values = {name: data.get(name) for name in _WORDS}
        return data | _cleaned(values, self._provider.METHOD, self._warn)

    async def _obtained(self, act: Callable[[], Any]) -> Any:
        source = source_of(self._provider.METHOD)
        async with _within(self._limit, source):
            with _obtained(source), translated(_WHERE.operation, ""):
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
            "or give it longer with --timeout (check: --limit)",
        )


@contextmanager
def _obtained(source: str) -> Iterator[None]:
    """Tell what fails on this host as that. What a helper prints as its answer is never repeated."""
    try:
        yield
    except RivaStreamError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or not is_local(cause):
            raise
        file = f"{cause.filename}: " if cause.filename else ""
        raise _unusable(source, f"{file}{cause.strerror}") from cause
    except json.JSONDecodeError as error:
        raise _unusable(source, "what it gives is no JSON") from error
    except UnicodeError as error:
        raise _unusable(source, "what it gives is not UTF-8") from error
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise _unusable(source, f"what it gives cannot be understood ({type(error).__name__})") from error


def _unusable(source: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"there are no usable credentials: {source}: {reason}",
        where=_WHERE,
        hint="check the profile in the AWS configuration (credential_process and the program it names), or set "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    )


def _cleaned(values: dict[str, Any], method: str, warn: Warn) -> dict[str, Any]:
    """The values without blanks around them.

    Raises:
        ConfigurationError: one is not there, or has something in it that no request can carry.
    """
    cleaned = {}
    for name, value in values.items():
        words, variable = _WORDS[name]
        if name == "token" and value in (None, ""):
            cleaned[name] = value
            continue
        if not isinstance(value, str) or not value.strip():
            raise _unusable(source_of(method), f"{words} is empty, or is no text")
        if (stripped := value.strip()) != value:
            warn(f"blanks or line breaks around {words} ({source_of(method)}) are ignored")
        if odd := next(filter(None, map(partial(_oddity, name), stripped)), ""):
            raise ConfigurationError(
                f"{words} has {odd} in it, which no request can carry",
                where=_WHERE,
                hint=f"it comes from {source_of(method)}: copy it anew ({variable})",
            )
        cleaned[name] = stripped
    return cleaned


def _oddity(name: str, letter: str) -> str:
    """What is wrong with one character; empty for nothing. A secret is only hashed, so that it may have blanks."""
    code, is_secret = ord(letter), name == "secret_key"
    rows = (
        # a surrogate: a byte of the environment that was no UTF-8
        (0xD800 <= code <= 0xDFFF, "something that is not UTF-8"),  # noqa: PLR2004
        (letter in "\r\n", "a line break"),
        (code < ord(" ") or code == _DELETE, "a control character"),
        (code > (_LATIN_1 if is_secret else _DELETE), "a character that is no letter of a key"),
        (letter.isspace() and not (is_secret and letter == " "), "a blank"),
    )
    return next((kind for is_odd, kind in rows if is_odd), "")


def _prepare(provider: Any) -> Any:
    """Let a helper end with us, and a file not be waited for; these are arguments that the chain does not pass on."""
    if isinstance(provider, AioProcessProvider):
        provider._popen = start_helper  # noqa: SLF001
    elif isinstance(provider, AioAssumeRoleWithWebIdentityProvider):
        provider._token_loader_cls = lambda path: partial(_web_identity_token, path)  # noqa: SLF001
    elif isinstance(provider, AioContainerProvider):
        provider._build_headers = partial(_headers, provider, provider._build_headers)  # noqa: SLF001
    return provider


def _made(make: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return _prepare(make(*args, **options))


def _web_identity_token(path: str) -> str:
    """In place of the SDK's, which opens whatever is there: a pipe would hold up the event loop."""
    return _token_in(path, AioAssumeRoleWithWebIdentityProvider.METHOD).decode()


def _headers(provider: Any, build: Callable[[], Any]) -> Any:
    # where botocore itself is about to look for it
    if (path := os.environ.get(provider.ENV_VAR_AUTH_TOKEN_FILE)) is not None:
        _token_in(path, provider.METHOD)
    return build()


def _token_in(path: str, method: str) -> bytes:
    try:
        return read_regular(Path(path), _LONGEST_TOKEN)
    except OSError as error:
        raise _unusable(source_of(method), f"{path}: {error.strerror}") from error
