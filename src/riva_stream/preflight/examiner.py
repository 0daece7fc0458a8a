"""What every single check of ``check`` goes through: its own time limit, and a record whatever comes of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from riva_stream.config import StageRequest
from riva_stream.errors import RivaStreamError
from riva_stream.preflight.report import CheckRecord, failed, failed_with, not_tried
from riva_stream.preflight.store import StoreFacts
from riva_stream.retry import Retrier

__all__ = ["Examiner"]

_TRANSIENT = 75


@dataclass(eq=False)
class Examiner:
    """Collects the records of one ``check``."""

    request: StageRequest
    limit: float
    """Seconds that each check may take."""
    retrier: Retrier
    records: dict[str, CheckRecord] = field(default_factory=dict)
    store: StoreFacts = field(default_factory=StoreFacts)
    """What was found out about the destination's store."""

    async def examine(
        self, component: str, act: Callable[[], Awaitable[CheckRecord]], *, degraded: str = ""
    ) -> CheckRecord:
        """Do one check and keep its record.

        Args:
            component: of the record.
            act: gives the record, or raises.
            degraded: what a run lacks without the right for it; given, a missing right is only a warning.
        """
        try:
            with anyio.fail_after(self.limit):
                record = await act()
        except TimeoutError:
            record = failed(
                component,
                f"no answer within {self.limit:g} s",
                code="timeout",
                exit_code=_TRANSIENT,
                fix="check the network, a proxy or a firewall on the way, and --endpoint-url; or give it longer "
                "with --limit",
            )
        except RivaStreamError as error:
            record = failed_with(component, error, self.request, degraded=degraded)
        return self.keep(record)

    def keep(self, record: CheckRecord) -> CheckRecord:
        """Keep a record; the first one of its component stands."""
        return self.records.setdefault(record.component, record)

    def skip(self, cause: str, *components: str, reason: str = "") -> None:
        """Say of components that they were not tried, since ``cause`` failed."""
        for component in components:
            self.keep(not_tried(component, cause, reason))
