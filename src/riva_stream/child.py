"""``python -m riva_stream.child``: the command line for an entry of a catalogue, whose hints name its fields.

Its standard input says what it must redact beyond what its environment says.
"""

import sys

if __name__ == "__main__":
    from riva_stream.__main__ import main
    from riva_stream.redact import from_parent

    from_parent(sys.stdin.buffer.read())
    sys.exit(main())
