"""Documents that are read back from a bucket: what is wrong in them costs no more than what is right."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from riva_stream.deployment import KINDS
from riva_stream.layout import ARTIFACT_JSON, MANIFEST_JSON, MARKER

MIB = 1 << 20


@pytest.mark.parametrize(
    ("name", "document"),
    [
        (ARTIFACT_JSON, {"models": [0] * 400_000}),
        (ARTIFACT_JSON, {"models": [[]] * 300_000}),
        (ARTIFACT_JSON, {"validation": {"contents": {"m": [{}] * 300_000}, "warnings": [1] * 300_000}}),
        (ARTIFACT_JSON, {"validation": {"containers": {f"{n:x}": 0 for n in range(60_000)}}}),
        (ARTIFACT_JSON, [0] * 5_000_000),
        (MANIFEST_JSON, {"include": [0] * 400_000, "files": {"models": [0] * 400_000}}),
    ],
    ids=["models", "lists", "contents", "containers", "very many", "manifest"],
)
def test_a_document_that_is_wrong_in_many_places_costs_no_memory(name: str, document: Any) -> None:
    raw = json.dumps(document).encode()
    del document
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"^[^\n]{1,300}$"):
            KINDS[name].parse(raw)
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    finally:
        tracemalloc.stop()


def test_a_marker_of_very_many_lines_is_none() -> None:
    with pytest.raises(ValueError, match="bytes"):
        KINDS[MARKER].parse(b"\n" * (1 << 20))


@pytest.mark.parametrize(
    "text", [b'"' + b'\\"' * MIB, b'"\\' * MIB, b'["' + b"a," * MIB, b"\\" * MIB, b'"' * MIB]
)
def test_a_string_that_does_not_end_is_looked_at_once(text: bytes) -> None:
    """Looked at from each of its bytes anew, a MiB of it would take hours."""
    with pytest.raises(ValueError, match=r"JSON|values"):
        KINDS[ARTIFACT_JSON].parse(text + b",[" * MIB if text[:1] == b'"' else text)


def test_what_is_told_of_a_document_is_one_short_line() -> None:
    raw = json.dumps({"validation": {"contents": {"\x1b[2J\n" * 5000: 0}}}).encode()
    with pytest.raises(ValueError, match=r"^[ -~]{1,300}$"):
        KINDS[ARTIFACT_JSON].parse(raw)
