"""Runs one command and measures it exactly. Started by `tests.support.process`; imports nothing but os and json.

Why a process in between. Linux hands the peak memory of the forking process on to the child's ``ru_maxrss`` at
exec (with vfork it is the parent's very own peak), so a child of a 500 MiB pytest seems to have used 500 MiB.
This launcher is a bare interpreter of some 10 MiB: that is the most it can add. Polling VmHWM instead would miss
whatever the command did between the last look and its end.

It waits with WNOWAIT, because ``/proc/PID/io`` of a process that has ended but was not yet reaped still holds its
final counts.

Arguments: a control descriptor, a report descriptor, and the command. On the report descriptor it writes one JSON
line with the command's process id, and one with the figures when it has ended. When the control descriptor
closes (whoever started us is gone), the command's whole process group is killed.
"""

import json
import os
import select
import signal
import sys
import time


def _main() -> None:
    control, report = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(control, False)
    os.set_inheritable(report, False)
    argv = sys.argv[3:]
    began = time.monotonic()
    try:
        pid = os.posix_spawn(argv[0], argv, os.environ, setsid=True)
    except OSError as error:
        os.write(report, json.dumps({"error": str(error)}).encode() + b"\n")
        return
    os.write(report, json.dumps({"pid": pid}).encode() + b"\n")
    ended = os.pidfd_open(pid)
    while True:
        readable, _, _ = select.select([control, ended], [], [])
        if ended in readable:
            break
        if not os.read(control, 1):
            os.killpg(pid, signal.SIGKILL)
            select.select([ended], [], [])
            break
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    wall = time.monotonic() - began
    with open(f"/proc/{pid}/io") as file:  # noqa: PTH123 - pathlib would be most of this process's memory
        io = dict(line.split(": ") for line in file.read().splitlines())
    _, status, usage = os.wait4(pid, 0)
    figures = {
        "exit_code": os.waitstatus_to_exitcode(status),
        "peak_rss": usage.ru_maxrss * 1024,
        "cpu_user": usage.ru_utime,
        "cpu_system": usage.ru_stime,
        "wall": wall,
        "io": {name: int(count) for name, count in io.items()},
    }
    os.write(report, json.dumps(figures).encode() + b"\n")


if __name__ == "__main__":
    _main()
