"""The command line: arguments in, exit code out; the one place that prints.

Nothing here may import pydantic, rich or an AWS library before a command runs: ``--help`` has to be instant.
"""

from riva_stream.cli.app import main

__all__ = ["main"]
