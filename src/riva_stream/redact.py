"""The last line of defence: no secret leaves through a message, a log or a file, whatever wrote it.

:func:`redact` blacks out what is always secret: the values of this process's secrets, signatures and tokens in
URLs and headers, passwords in URLs, access keys. :class:`Redactor` does more on request, for logs that others read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import cache, partial
from typing import Any
from urllib.parse import quote

__all__ = [
    "NAMED",
    "SECRETS",
    "Redactor",
    "for_child",
    "from_parent",
    "is_secret",
    "redact",
    "remember",
    "without_userinfo",
]

_NAMES = (
    "AWS_ACCESS_KEY_ID",  # no secret by itself, but a user who swaps the two has the secret here
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
)
_SECRET_NAME = re.compile(
    r"SECRET|TOKEN|PASSW|PASSPHRASE|API_?KEY|PRIVATE_?KEY|ACCESS_?KEY|CREDENTIAL|AUTHORIZATION"
    # Only at the end, and behind something: PWD is a folder, SSH_AUTH_SOCK a socket, S3_KEY the name of an object.
    r"|_(?:PASS|PWD|AUTH)$|(?<!S3)(?<!OBJECT)(?<!PUBLIC)_KEY$",
    re.IGNORECASE,
)
_NOT_SECRET = re.compile(
    r"_(?:FILE|PATH|DIR|URI|URL|NAME|(?<!SECRET_)ID|REGION|EXPIRATION|TTL|TYPE)$", re.IGNORECASE
)
_SHORTEST = 8  # a shorter "secret" is a test server's, such as "test", and would black out half of the text

_remembered: set[str] = set()
_longest_first: list[str] = []
"""Secrets from a ``.env``: they can turn up in a message without ever being in the environment."""

_SIGNED = re.compile(
    r"(X-Amz-(?:Signature|Security-Token|Credential)\\?[\"']?\s*(?:=|:|%3D)\s*b?\\?[\"']?"
    # Google's, CloudFront's and Azure's; "sig" is a common word, so it counts only in a query.
    r"|X-Goog-(?:Signature|Credential)(?:=|%3D)"
    r"|(?<![A-Za-z-])(?:AWSAccessKeyId|GoogleAccessId|Key-Pair-Id|Signature|Credential)(?:=|%3D)"
    r"|(?:[?&]|%3F|%26)sig(?:=|%3D))[^&\s\"'\\,;<>]+",
    re.IGNORECASE,
)
_HEADER = re.compile(r"((?:Proxy-)?Authorization\\?[\"']?\s*[:=]\s*b?\\?[\"']?)[^\"'\\\r\n]+", re.IGNORECASE)


def _userinfo(colon: str, slash: str, at: str, ends: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Two patterns, which keep the time linear: a text without blanks, up to its last @; and from a user in it on.

    A password may hold any character, so it ends at the last @. A user's name has no colon, and no character that
    ends a host. Other colons before a slash are those of ports and of access points.
    """
    name = rf"(?:(?!{colon}|{ends})[^\s\"'<>])*"
    host = rf"(?:localhost|[\w-]+\.[\w.-]*|\[[\da-f:.]+\])(?:{colon}\d+)?{slash}"
    return (
        re.compile(rf"(?<!\S)\S*{at}", re.IGNORECASE),
        re.compile(
            rf"({colon}{slash}{slash})(?!{host}|arn{colon}){name}{colon}.*"
            rf"|(https?{colon}{slash}{slash})(?:(?!{ends})[^\s\"'<>])+{at}",  # a token alone
            re.IGNORECASE,
        ),
    )


_USERINFO = (
    _userinfo(":", r"\\*/", "@", "[/?#]"),  # JSON may have backslashes before slashes
    _userinfo("%(?:25)*3A", "(?:/|%(?:25)*2F)", "%(?:25)*40", "[/?#]|%(?:25)*(?:2F|3F|23)"),
)
_ACCESS_KEY = re.compile(r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{12,}(?![A-Za-z0-9])")

_ACCOUNT = re.compile(r"(?<=:)\d{12}(?=:)|(?<=account )\d{12}\b", re.IGNORECASE)
_MAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+")


def is_secret(name: str) -> bool:
    """Whether a variable of this name holds a secret."""
    return name.upper() in _NAMES or (bool(_SECRET_NAME.search(name)) and not _NOT_SECRET.search(name))


def remember(variables: Mapping[str, str]) -> None:
    """Redact from now on the values of those variables whose names say that they are secret."""
    _remember(value for name, value in variables.items() if is_secret(name))


def _remember(secrets: Iterable[str]) -> None:
    for secret in secrets:
        _remembered.update(_spellings(secret))
    _longest_first[:] = sorted(_remembered, key=len, reverse=True)


NAMED: list[str] = []
"""Values of variables that LOG_REDACT names and that only the parent of this process has."""


def for_child(*places: Mapping[str, str], names: Iterable[str]) -> bytes:
    """What a child process must redact, though it does not get the variables: input for :func:`from_parent`.

    Args:
        places: of variables, highest precedence first.
        names: variables that LOG_REDACT names.
    """
    secrets = [value for place in places for name, value in place.items() if is_secret(name)]
    found = (next((place[name] for place in places if place.get(name, "").strip()), "") for name in names)
    return json.dumps([secrets, [value.strip() for value in found]]).encode()


def from_parent(data: bytes) -> None:
    """Redact from now on what the parent process redacts.

    Raises:
        ValueError: the parent ended before it had written all of it.
    """
    secrets, NAMED[:] = json.loads(data)
    _remember(secrets)


def redact(text: str) -> str:
    """``text`` with ``***`` in place of secrets."""
    for name in _NAMES:  # each time, since the AWS libraries may read them from there at any time
        for secret in _spellings(os.environ.get(name, "")):
            text = text.replace(secret, "***")
    for secret in _longest_first:
        text = text.replace(secret, "***")
    text = _HEADER.sub(r"\1***", _SIGNED.sub(r"\1***", text))
    return _ACCESS_KEY.sub("***", without_userinfo(text, "***@"))


def without_userinfo(text: str, instead: str = "") -> str:
    """``text`` with ``instead`` in place of user names and passwords in URLs, in any of their spellings."""
    for up_to_at, from_user in _USERINFO:
        text = up_to_at.sub(partial(_replace, from_user, rf"\1\2{instead}"), text)
    return text


def _replace(pattern: re.Pattern[str], by: str, part: re.Match[str]) -> str:
    return pattern.sub(by, part[0])


class Redactor:
    """:func:`redact`, plus what LOG_REDACT requests.

    Args:
        names: variables and fields. What follows ``NAME=`` or ``NAME:`` is blacked out, and so is the value of such a
            variable wherever it occurs.
        values: of those variables.
        accounts: black out account ids and mail addresses too.
    """

    def __init__(
        self, names: Iterable[str] = (), values: Iterable[str] = (), *, accounts: bool = True
    ) -> None:
        wanted = [name for name in names if name]
        listed = "|".join(map(re.escape, sorted(wanted, key=len, reverse=True)))
        self._fields = {name.lower() for name in wanted}
        self._pattern = (
            re.compile(rf"((?:{listed})\\?[\"']?\s*[=:]\s*\\?[\"']?)[^\s\"'\\,;}}]+", re.IGNORECASE)
            if wanted
            else None
        )
        # Two letters would black out half of the text.
        self._values = sorted({value for value in values if len(value) > 2}, key=len, reverse=True)  # noqa: PLR2004
        self._accounts = accounts

    def text(self, text: str) -> str:
        """Redact one line or many."""
        text = redact(text)
        for value in self._values:
            text = text.replace(value, "***")
        if self._pattern is not None:
            text = self._pattern.sub(r"\1***", text)
        if self._accounts:
            text = _MAIL.sub("***", _ACCOUNT.sub("***", text))
        return text

    def value(self, value: Any) -> Any:
        """Redact the strings, at any depth, of what is about to become JSON; done before, so that it stays JSON."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {
                self.text(str(key)): "***" if str(key).lower() in self._fields else self.value(inner)
                for key, inner in value.items()
            }
        return [self.value(inner) for inner in value] if isinstance(value, list | tuple) else value


SECRETS = Redactor(accounts=False)
"""The same as :func:`redact`, for values: a secret of digits may be part of a number, which cannot be blacked out in
JSON that is already written."""


@cache
def _spellings(secret: str) -> tuple[str, ...]:
    """The spellings of a secret: as it is, in a URL, in JSON and in Python's own notation; the longest first."""
    secret = secret.strip()
    if len(secret) < _SHORTEST:
        return ()
    encoded = quote(secret, safe="", errors="replace")
    spellings = {
        secret,
        encoded,
        re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), encoded),
        quote(secret, errors="replace"),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
    }
    return tuple(sorted(spellings, key=len, reverse=True))
