"""Many stagings from one list: read and validated as a whole, then passed to an engine one by one.

::

    catalogue ──► plan: entries x environments x archives ──► jobs: one reading of a source, one or more places
                                                                └──► engine: this host's processes, or Ray ──► report

There is no queue and no state: the bucket shows what is staged already, so running the list again resumes it.
"""

from riva_stream.catalogue.engine import (
    CatalogueReport,
    Engine,
    EntryEnded,
    EntryEvent,
    EntryReport,
    EntryStarted,
    Planned,
)
from riva_stream.catalogue.load import CatalogueError, LoadedCatalogue, Problem
from riva_stream.catalogue.local import LocalEngine
from riva_stream.catalogue.model import Catalogue
from riva_stream.catalogue.plan import load_catalogue
from riva_stream.catalogue.ray_engine import RayEngine
from riva_stream.catalogue.run import stage_all

__all__ = [
    "Catalogue",
    "CatalogueError",
    "CatalogueReport",
    "Engine",
    "EntryEnded",
    "EntryEvent",
    "EntryReport",
    "EntryStarted",
    "LoadedCatalogue",
    "LocalEngine",
    "Planned",
    "Problem",
    "RayEngine",
    "load_catalogue",
    "stage_all",
]
