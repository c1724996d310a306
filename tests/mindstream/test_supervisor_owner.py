"""What becomes of roles whose supervisor is killed, or gets Ctrl-C at a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from mindstream.embedded.lifeline import is_alive
from tests.mindstream.processes import runs, within

OWNER = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from mindstream.supervisor import RoleProcess, Supervisor
names = ["ingest", "learn"]
program = "import time; time.sleep(600)"
roles = [RoleProcess(n, [sys.executable, "-c", program], {}, Path(sys.argv[1]) / n) for n in names]
supervisor = Supervisor(roles, say=print)
supervisor.start()
try:
    print(*[state.pid for state in supervisor.state()], flush=True)  # Ctrl-C may follow at once
    while True:
        supervisor.poll()
        time.sleep(0.05)
except KeyboardInterrupt:
    print("alive at Ctrl-C:", sum(state.alive for state in supervisor.state()), flush=True)
    supervisor.stop(timeout_s=5.0)
"""


def _owner(folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert owner.stdout is not None
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    assert len(pids) == 2
    assert all(is_alive(pid) for pid in pids)
    return owner, pids


def test_roles_are_gone_within_two_seconds_of_their_supervisor_being_killed(
    tmp_path: Path,
) -> None:
    owner, pids = _owner(tmp_path)
    owner.kill()
    owner.communicate()
    within(lambda: not any(runs(pid) for pid in pids), 2.0)


def test_ctrl_c_at_the_terminal_reaches_the_supervisor_alone(tmp_path: Path) -> None:
    owner, pids = _owner(tmp_path)
    os.killpg(owner.pid, signal.SIGINT)  # as a terminal does: to its whole foreground group
    output, _ = owner.communicate(timeout=10)
    assert "alive at Ctrl-C: 2" in output
    assert owner.returncode == 0
    assert not any(is_alive(pid) for pid in pids)
