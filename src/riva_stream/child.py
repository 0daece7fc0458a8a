"""``python -m riva_stream.child``: the command line for an entry of a catalogue, whose hints name its fields."""

import sys

from riva_stream.naming import fields_named

if __name__ == "__main__":
    from riva_stream.__main__ import main

    with fields_named():
        sys.exit(main())
