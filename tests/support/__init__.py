"""What the tests stand on: S3 servers, a fault proxy, processes under observation, and made-up archives.

Nothing in here imports pytest, so benchmarks and demos use the same servers and archives as the suite does.
"""
