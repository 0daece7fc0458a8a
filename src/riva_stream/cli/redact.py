"""The last line of defence: no secret leaves through a message, whatever wrote it."""

from __future__ import annotations

import os
import re

__all__ = ["redact"]

_NAMES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
)
_SHORTEST = 12  # a shorter "secret" is a test server's, such as "test", and would black out half of the text
_SIGNED = re.compile(r"(X-Amz-(?:Signature|Security-Token|Credential)=)[^&\s\"']+", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/@\s\"']+:[^/@\s\"']+@")


def redact(text: str) -> str:
    """``text`` without the secrets of this process's environment, signatures of URLs, passwords in URLs."""
    for name in _NAMES:
        secret = os.environ.get(name, "")
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, "***")
    return _USERINFO.sub("***@", _SIGNED.sub(r"\1***", text))
