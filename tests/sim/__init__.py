"""The real ``stage()`` in a simulated world: one thread, virtual time, a store that judges each request.

================  ===================================================================================================
`loop`            an event loop on virtual time, which can freeze, suspend and kill what runs on it
`network`         between a run and the store: every request has a number, and a schedule decides what becomes of it
`judge`           looks at the store at the moment a request takes effect; knows nothing of the code under test
`world`           one simulation: a store, its judge, and processes that are started, broken and run again
`sources`         tiny archives, and what is really in them
`scenarios`       what may be asked for, of what state of the destination
`exhaustive`      every request of every scenario, broken in every way; every schedule of two runs with two switches
`seeds`           what a seed draws: two and three runs, crashes, freezes, requests of the dead that come late
`older`           version 0.1 of the package, to be run beside this one
`report`          counts, and the command that replays a violation
================  ===================================================================================================

::

    python -m tests.sim --seeds 100000
    python -m tests.sim --seeds 3000 --beside tests.sim.older:stage
    python -m tests.sim --exhaustive
    python -m tests.sim --replay 4711 --trace
"""
