"""Children end with their parent, by the kernel and by the watcher alike."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mindstream.embedded.lifeline import is_alive, spawn
from tests.mindstream.processes import runs, within

LINUX = sys.platform == "linux"
MEANS = [pytest.param(False, id="watcher")] + ([pytest.param(True, id="kernel")] if LINUX else [])
SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('ready', flush=True); time.sleep(600)",
]
PARENT = """
import sys, time
from mindstream.embedded.lifeline import spawn
child = spawn([sys.executable, "-c", "import time; time.sleep(600)"], by_kernel=sys.argv[1] == "1")
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("by_kernel", MEANS)
def test_a_child_is_gone_within_two_seconds_of_its_parent_being_killed(by_kernel: bool) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(int(by_kernel))], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert is_alive(pid)
    time.sleep(0.3)  # the watcher, or the arming, is in place
    parent.kill()
    parent.wait()
    parent.stdout.close()
    within(lambda: not runs(pid), 2.0)


@pytest.mark.parametrize("by_kernel", MEANS)
def test_a_child_has_a_group_of_its_own_and_shares_the_processor_with_its_parent_s_session(
    by_kernel: bool,
) -> None:
    # Linux shares a processor out between sessions before it looks at priorities
    child = spawn(SLEEPER, by_kernel=by_kernel)
    try:
        assert os.getpgid(child.pid) == child.pid
        assert os.getsid(child.pid) == os.getsid(0)
    finally:
        child.end(timeout_s=5.0)


@pytest.mark.parametrize("by_kernel", MEANS)
def test_a_child_that_listens_ends_on_sigterm_and_leaves_no_zombie(by_kernel: bool) -> None:
    child = spawn(SLEEPER, by_kernel=by_kernel)
    assert child.poll() is None
    assert child.end(timeout_s=5.0) == -signal.SIGTERM
    assert child.end(timeout_s=5.0) == -signal.SIGTERM
    assert not is_alive(child.pid)
    with pytest.raises(ChildProcessError):
        os.waitpid(-child.pid, os.WNOHANG)


@pytest.mark.parametrize("by_kernel", MEANS)
def test_a_child_that_does_not_listen_is_killed_at_the_deadline(
    tmp_path: Path, by_kernel: bool
) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        child = spawn(STUBBORN, output=output, by_kernel=by_kernel)
    within(lambda: log.read_text() == "ready\n")
    began_s = time.monotonic()
    assert child.end(timeout_s=0.4) == -signal.SIGKILL
    assert 0.4 <= time.monotonic() - began_s < 2.0


@pytest.mark.parametrize("by_kernel", MEANS)
def test_what_a_dead_child_left_behind_is_killed_when_its_death_is_noted(
    tmp_path: Path, by_kernel: bool
) -> None:
    pid_file = tmp_path / "pid"
    program = (
        "import subprocess, sys, time\n"
        "grandchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"print(grandchild.pid, file=open({str(pid_file)!r}, 'w'))\n"
    )
    child = spawn([sys.executable, "-W", "ignore", "-c", program], by_kernel=by_kernel)
    within(lambda: child.poll() is not None)
    grandchild = int(pid_file.read_text())
    within(lambda: not runs(grandchild))


@pytest.mark.skipif(not LINUX, reason="the kernel's signal is Linux's")
def test_a_child_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    children = []

    def ask() -> None:
        with log.open("wb") as output:
            program = "import time; print('ready', flush=True); time.sleep(600)"
            children.append(spawn([sys.executable, "-c", program], output=output, by_kernel=True))
        within(lambda: log.read_text() == "ready\n")  # armed by now

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    time.sleep(0.3)
    assert children[0].poll() is None
    children[0].kill()


@pytest.mark.skipif(not LINUX, reason="the kernel's signal is Linux's")
def test_a_command_that_cannot_be_run_ends_with_127_and_says_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        child = spawn(["/no/such/program"], output=output, by_kernel=True)
    within(lambda: child.poll() is not None)
    assert child.poll() == 127
    assert log.read_text() == "/no/such/program: No such file or directory\n"


def test_a_folder_that_is_not_there_is_an_error_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        spawn(SLEEPER, cwd=tmp_path / "absent")
    child = spawn(SLEEPER)  # and the thread that starts children still works
    child.kill()


def test_a_child_gets_the_environment_and_folder_it_is_given(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = "import os; print(os.environ.get('GIVEN'), os.environ.get('HOME'), os.getcwd())"
    with log.open("wb") as output:
        child = spawn(
            [sys.executable, "-c", program], env={"GIVEN": "a b"}, output=output, cwd=tmp_path
        )
    within(lambda: child.poll() is not None)
    assert log.read_text() == f"a b None {tmp_path.resolve()}\n"
