"""Stage model archives between S3 buckets in one verified streaming pass, with nothing on disk.

::

    from riva_stream import StageRequest, stage

    report = await stage(StageRequest(source="s3://…/model.tar.gz", bucket="…", env="prod", …))

Names are loaded when they are first used: importing this package alone costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from riva_stream.catalogue import (
        Catalogue,
        CatalogueReport,
        LocalEngine,
        RayEngine,
        load_catalogue,
        stage_all,
    )
    from riva_stream.config import PromoteRequest, StageRequest
    from riva_stream.errors import (
        AccessDeniedError,
        ArchiveError,
        ConfigurationError,
        DestinationConflictError,
        DigestMismatchError,
        HeldError,
        IntegrityError,
        RivaStreamError,
        SourceChangedError,
        SourceNotFoundError,
        StalledError,
        ThrottledError,
        TransientError,
    )
    from riva_stream.events import Event, Observer, throttled
    from riva_stream.flow.buffers import Credits as MemoryBudget
    from riva_stream.inspection.staging import StagedObject, Staging, read_staging
    from riva_stream.pipeline import promote, stage
    from riva_stream.report import PromoteReport, StageReport
    from riva_stream.s3 import StoreSettings, open_store

    __version__: str

_HOMES = {
    "MemoryBudget": ("flow.buffers", "Credits"),
    "PromoteRequest": ("config", ""),
    "StageRequest": ("config", ""),
    "Catalogue": ("catalogue", ""),
    "CatalogueReport": ("catalogue", ""),
    "LocalEngine": ("catalogue", ""),
    "RayEngine": ("catalogue", ""),
    "load_catalogue": ("catalogue", ""),
    "stage_all": ("catalogue", ""),
    "AccessDeniedError": ("errors", ""),
    "ArchiveError": ("errors", ""),
    "ConfigurationError": ("errors", ""),
    "DestinationConflictError": ("errors", ""),
    "DigestMismatchError": ("errors", ""),
    "HeldError": ("errors", ""),
    "IntegrityError": ("errors", ""),
    "RivaStreamError": ("errors", ""),
    "SourceChangedError": ("errors", ""),
    "SourceNotFoundError": ("errors", ""),
    "StalledError": ("errors", ""),
    "ThrottledError": ("errors", ""),
    "TransientError": ("errors", ""),
    "Event": ("events", ""),
    "Observer": ("events", ""),
    "throttled": ("events", ""),
    "StagedObject": ("inspection.crosscheck", ""),
    "Staging": ("inspection.staging", ""),
    "read_staging": ("inspection.staging", ""),
    "promote": ("pipeline", ""),
    "stage": ("pipeline", ""),
    "PromoteReport": ("report", ""),
    "StageReport": ("report", ""),
    "StoreSettings": ("s3", ""),
    "open_store": ("s3", ""),
}

__all__ = [
    "AccessDeniedError",
    "ArchiveError",
    "Catalogue",
    "CatalogueReport",
    "ConfigurationError",
    "DestinationConflictError",
    "DigestMismatchError",
    "Event",
    "HeldError",
    "IntegrityError",
    "LocalEngine",
    "MemoryBudget",
    "Observer",
    "PromoteReport",
    "PromoteRequest",
    "RayEngine",
    "RivaStreamError",
    "SourceChangedError",
    "SourceNotFoundError",
    "StageReport",
    "StageRequest",
    "StagedObject",
    "Staging",
    "StalledError",
    "StoreSettings",
    "ThrottledError",
    "TransientError",
    "__version__",
    "load_catalogue",
    "open_store",
    "promote",
    "read_staging",
    "stage",
    "stage_all",
    "throttled",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = importlib.import_module("importlib.metadata").version("riva-stream")
    elif name in _HOMES:
        home, real = _HOMES[name]
        value = getattr(importlib.import_module(f"riva_stream.{home}"), real or name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # found directly the next time
    return value


def __dir__() -> list[str]:
    return __all__
