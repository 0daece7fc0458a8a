"""Print what each store enforces: ``python -m tests.contract``."""

from tests.contract.enforcement import table

print(table())  # noqa: T201 - it is what this module is for
