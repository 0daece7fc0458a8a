"""Requests with parts far below what one may have, so that a few KiB are many of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, overload

from pydantic import Field

from riva_stream.config import Contradiction, PromoteRequest, Request, StageRequest
from riva_stream.sizes import MIB

__all__ = ["SmallPromoteRequest", "SmallStageRequest", "with_small"]


class _Small(Request):
    """All other fields are as valid as ever, and stay so in copies of it."""

    part_size: int = Field(default=8 * MIB, ge=1)

    def _contradictions(self) -> Iterator[Contradiction]:
        for found in super()._contradictions():
            if found.field != "memory":  # which may be as small
                yield found


class SmallStageRequest(_Small, StageRequest):
    """A staging."""


class SmallPromoteRequest(_Small, PromoteRequest):
    """A promotion."""


@overload
def with_small(request: StageRequest, **fields: Any) -> SmallStageRequest: ...
@overload
def with_small(request: PromoteRequest, **fields: Any) -> SmallPromoteRequest: ...
def with_small(request: StageRequest | PromoteRequest, **fields: Any) -> StageRequest | PromoteRequest:
    """The same request with other fields, its small parts among them."""
    kind = SmallStageRequest if isinstance(request, StageRequest) else SmallPromoteRequest
    return kind(**{name: getattr(request, name) for name in request.model_fields_set} | fields)
