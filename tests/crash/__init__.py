"""Runs that are killed, stopped, doubled and starved, and what stands in the bucket afterwards.

``python -m tests.crash`` with ``kill``, ``points``, ``rivals``, ``zombie`` or ``soak`` does it at length and prints
the counts and the seed; ``test_crash.py`` does a few of each. All runs are the real command line in a process of its
own against a real server, each through a fault proxy of its own: what is counted is what went through the proxies.

==============  ====================================================================================
`kit`           a bucket for one trial, a run with its proxy, trials side by side
`verdict`       what is wrong with what stands in the bucket: nothing, if the run converged
`moments`       a moment of a run, drawn at random, or by name
`accounts`      bytes that were sent twice, and how many might be
==============  ====================================================================================
"""
