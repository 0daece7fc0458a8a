"""``python -m riva_stream.child``: the command line for an entry of a catalogue, whose hints name its fields."""

import sys

if __name__ == "__main__":
    from riva_stream.__main__ import main

    sys.exit(main())
