"""``python -m riva_stream``, and the command ``riva-stream``."""

import sys


def main() -> int:
    """Run the command line, which handles signals itself once it is loaded: importing it takes a while."""
    try:
        from riva_stream.cli import main as command_line  # noqa: PLC0415

        return command_line()
    except KeyboardInterrupt:
        return 130  # as shells report SIGINT


if __name__ == "__main__":
    sys.exit(main())
