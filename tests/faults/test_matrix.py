"""The fault matrix. A representative part of it by default, on moto, which costs least; all of it, on the gateway, with
``--all``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults.cells import Field
from tests.faults.known import known
from tests.faults.matrix import (
    ALL,
    CELLS,
    COMPLETE,
    COPY,
    CREATE,
    ELSEWHERE,
    JOURNAL_PUT,
    MARKER_COMPLETE,
    PART,
    REPRESENTATIVE,
    Cell,
    table,
)

DOCS = Path(__file__).parents[2] / "docs" / "reliability.md"


_COPIED = tuple(cell for cell in REPRESENTATIVE if cell.target is COPY)
"""moto tells no checksum by which a copy could be proven, and is asked for none."""
_REPRESENTATIVE = tuple(cell for cell in REPRESENTATIVE if cell not in _COPIED)


_BY_CONDITIONS = tuple(
    cell for cell in ELSEWHERE if cell.target in {CREATE, PART, COMPLETE, MARKER_COMPLETE, JOURNAL_PUT}
)
"""What a store that has them is asked each time: nothing has to be staged before."""


def parameters(server: str, cells: tuple[Cell, ...], part: tuple[Cell, ...] = ()) -> list[Any]:
    """A test for each cell; those that are not in ``part`` are long."""
    found: list[Any] = []
    for cell in cells:
        marks: list[pytest.MarkDecorator] = [getattr(pytest.mark, server)] if server != "moto" else []
        marks += [] if cell in part else [pytest.mark.long]
        if reason := known(server, cell):
            marks.append(pytest.mark.xfail(strict=False, reason=reason))
        found.append(pytest.param(server, cell, id=f"{server} | {cell.id}", marks=marks))
    return found


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("server_name", "cell"),
    [
        *parameters("gateway", CELLS, _COPIED),
        *parameters(
            "moto",
            (*_REPRESENTATIVE, *(cell for cell in ELSEWHERE if cell not in REPRESENTATIVE)),
            _REPRESENTATIVE,
        ),
        *parameters("localstack", ELSEWHERE),
        *parameters("seaweedfs", ELSEWHERE, _BY_CONDITIONS),
    ],
)
async def test_a_cell_of_the_matrix(plot: Field, server_name: str, cell: Cell) -> None:
    assert plot.server.name == server_name
    await plot.run(cell, ALL)


def test_the_part_that_is_always_run_holds_every_fault_and_every_kind_of_request() -> None:
    assert {cell.fault.name for cell in REPRESENTATIVE} == {cell.fault.name for cell in CELLS}
    assert {cell.target for cell in REPRESENTATIVE} == set(ALL)
    assert len({cell.id for cell in CELLS}) == len(CELLS)


def test_the_matrix_stands_in_the_docs() -> None:
    assert table() in DOCS.read_text()
