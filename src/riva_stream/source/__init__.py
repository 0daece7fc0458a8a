"""The source: found, pinned, and read in order."""

from riva_stream.source.find import find_archives, find_source
from riva_stream.source.pin import PinnedSource, SourceChecksums
from riva_stream.source.ranges import FEW, RANGES_IGNORED, PinnedRanges, is_unchanged
from riva_stream.source.reader import SourceReader

__all__ = [
    "FEW",
    "RANGES_IGNORED",
    "PinnedRanges",
    "PinnedSource",
    "SourceChecksums",
    "SourceReader",
    "find_archives",
    "find_source",
    "is_unchanged",
]
