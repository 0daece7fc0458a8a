"""The test suite. A package, so that ``tests.support`` has one name for pytest, mypy, benchmarks and demos."""
