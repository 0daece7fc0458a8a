"""Print the fault matrix with its counts: ``python -m tests.faults``."""

from tests.faults.matrix import table

print(table())  # noqa: T201 - it is what this module is for
