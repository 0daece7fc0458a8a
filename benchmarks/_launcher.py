"""Runs one command and measures everything it starts. Started by `benchmarks.measure`; imports os, json and ctypes.

A shell does not reap its process substitutions, so their CPU seconds are lost to whoever waits for the shell. This
launcher is their subreaper: it waits until the last descendant has ended, and ``RUSAGE_CHILDREN`` then holds all of
them. It is small for the reason that stands in ``tests/support/_launcher.py``: Linux hands the peak memory of the
forking process on to its child.

Arguments: a control descriptor, a report descriptor, a file each for stdout and stderr, and the command. When the
control descriptor closes, everything is killed.
"""

import ctypes
import json
import os
import resource
import select
import signal
import sys
import time

_PR_SET_CHILD_SUBREAPER = 36


def _main() -> None:
    control, report = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(control, False)
    os.set_inheritable(report, False)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    writable = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, sys.argv[3], writable, 0o600),
        (os.POSIX_SPAWN_OPEN, 2, sys.argv[4], writable, 0o600),
    ]
    argv = sys.argv[5:]
    began = time.monotonic()
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, setsid=True)
    os.write(report, json.dumps({"pid": pid}).encode() + b"\n")
    ended = os.pidfd_open(pid)
    readable, _, _ = select.select([control, ended], [], [])
    if control in readable:
        os.killpg(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    wall = time.monotonic() - began
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "exit_code": os.waitstatus_to_exitcode(status),
        "wall": wall,
        "cpu_user": usage.ru_utime,
        "cpu_system": usage.ru_stime,
        "peak_rss": usage.ru_maxrss * 1024,
    }
    os.write(report, json.dumps(figures).encode() + b"\n")


if __name__ == "__main__":
    _main()
