"""What is there before the command line is."""

from __future__ import annotations

import pytest

from riva_stream import __main__ as program
from riva_stream import cli


def test_a_signal_while_the_program_is_read_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    assert program.main() == 130
    monkeypatch.setattr(cli, "main", lambda: 7)
    assert program.main() == 7
