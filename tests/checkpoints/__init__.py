"""Checkpoints at scale: ``python -m tests.checkpoints --count 10000 --seed 1``, ``--stagings 10000``, ``--hostile 100000``.

What must hold: an archive that is read in several sittings, each one beginning from the written snapshot of the one before,
comes to the same events, digests, warnings and refusals as in one go; and a snapshot that somebody has changed is refused,
or leads to a refusal or to other bytes, but never to a crash, a hang, or memory without bound. A whole staging that is
killed again and again comes to the documents and objects of one that was not.
"""
