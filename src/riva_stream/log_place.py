"""Where in S3 the copy of a run's log goes. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from riva_stream.config import Request
from riva_stream.handover import SCRIPT_ID

__all__ = ["LogPlace"]


@dataclass(frozen=True, slots=True)
class LogPlace:
    """A prefix in a bucket, below which each run has a folder."""

    bucket: str
    prefix: str
    """Without slashes at its ends; may be empty."""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def key(self, run_id: str, name: str) -> str:
        """``riva-logs/130/<run id>/<name>``."""
        return "/".join(part for part in (self.prefix, SCRIPT_ID, run_id, name) if part)

    def refusal(self, request: Request) -> str:
        """Why no log may go there, or ""."""
        key = f"s3://{self.bucket}/{self.key('run', 'log')}"
        if not key.startswith(request.places):
            return ""
        return f"{self} is inside the staging, which must hold only staged objects"
