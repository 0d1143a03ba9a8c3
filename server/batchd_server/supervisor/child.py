"""The first moments of every process that the supervisor starts: `python -m batchd_server.supervisor.child MODULE ...`.

Ties the process's life to the supervisor's before MODULE is imported, which for torch takes seconds.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

from batchd_server.supervisor.stopping import LEAVE, RETIRE

SUPERVISOR_VARIABLE = "BATCHD_SUPERVISOR_PID"
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def end_with(supervisor: int) -> None:
    """Have the kernel kill this process when its parent, the supervisor, dies in whatever way."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it died before we asked
        os._exit(1)


def adopt_orphans(adopt: bool) -> None:
    """Become the parent of those of this process's descendants that lose theirs, or stop doing so."""
    _prctl(_PR_SET_CHILD_SUBREAPER, int(adopt))


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def main() -> None:
    """Run the module that the command line names, as `python -m` would."""
    end_with(int(os.environ.pop(SUPERVISOR_VARIABLE)))
    for number in (LEAVE, RETIRE):
        signal.signal(number, signal.SIG_IGN)  # unheard, these would end a process that does not listen yet
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
