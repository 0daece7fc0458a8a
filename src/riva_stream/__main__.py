"""``python -m riva_stream``."""

import sys

from riva_stream.cli import main

if __name__ == "__main__":
    sys.exit(main())
