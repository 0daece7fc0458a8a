"""Measures riva_stream against its peers and against the kernels it is made of: ``python -m benchmarks --help``."""
