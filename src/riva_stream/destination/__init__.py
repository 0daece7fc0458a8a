"""The only place that changes what readers can see."""

from riva_stream.destination.destination import Destination
from riva_stream.destination.hold import hold, resume, warn_resumed

__all__ = ["Destination", "hold", "resume", "warn_resumed"]
