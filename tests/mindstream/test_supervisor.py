"""The supervisor keeps real processes alive, stops them in order, and leaves none behind."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindstream.embedded.lifeline import is_alive
from mindstream.supervisor import FIRST_WAIT_S, LAST_WAIT_S, STEADY_S, RoleProcess, Supervisor
from tests.mindstream.processes import runs, within

READY = "print('ready', flush=True)\n"
SLEEP = READY + "import time; time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEP


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Stage:
    """Builds supervisors over small programs, and ends whatever a test leaves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.said: list[str] = []
        self.supervisors: list[Supervisor] = []

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def supervise(self, programs: dict[str, str], *, log_bytes: int = 1 << 20) -> Supervisor:
        roles = [
            RoleProcess(
                name=name,
                argv=[sys.executable, "-W", "ignore", "-c", program],
                env={"FOLDER": str(self.folder)},
                log_file=self.folder / f"{name}.log",
            )
            for name, program in programs.items()
        ]
        supervisor = Supervisor(
            roles, say=self.said.append, clock_s=self.clock, log_bytes=log_bytes
        )
        self.supervisors.append(supervisor)
        supervisor.start()
        return supervisor

    def ready(self, *names: str) -> None:
        within(lambda: all("ready" in self.log(name) for name in names))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    built = Stage(tmp_path)
    yield built
    for supervisor in built.supervisors:
        supervisor.stop(timeout_s=0.0)


def poll_until(supervisor: Supervisor, check: Callable[[], bool], seconds: float = 10.0) -> None:
    def look() -> bool:
        supervisor.poll()
        return check()

    within(look, seconds)


def pid_of(supervisor: Supervisor, name: str) -> int:
    (pid,) = [state.pid for state in supervisor.state() if state.name == name]
    assert pid is not None
    return pid


def is_down(supervisor: Supervisor) -> bool:
    return not supervisor.state()[0].alive


def test_a_killed_role_is_said_with_its_last_words_and_started_again(stage: Stage) -> None:
    supervisor = stage.supervise({"learn": "print('last words')\n" + SLEEP, "watch": SLEEP})
    stage.ready("learn", "watch")
    before, other = pid_of(supervisor, "learn"), pid_of(supervisor, "watch")
    supervisor.kill("learn")
    poll_until(supervisor, lambda: bool(stage.said))
    assert stage.said[0] == "learn ended (SIGKILL); starting it again in 0.5 s"
    assert stage.said[1:] == ["  learn: last words", "  learn: ready"]
    down = supervisor.state()[0]
    assert (down.pid, down.alive, down.restarts, down.uptime_s) == (None, False, 0, 0.0)
    stage.clock.now_s += FIRST_WAIT_S - 0.01
    supervisor.poll()
    assert not supervisor.state()[0].alive
    stage.clock.now_s += 0.01
    supervisor.poll()
    stage.clock.now_s += 3.0
    up = supervisor.state()[0]
    assert (up.alive, up.restarts, up.uptime_s) == (True, 1, 3.0)
    assert up.pid != before
    assert pid_of(supervisor, "watch") == other


def test_a_role_that_dies_at_once_is_retried_ever_more_slowly_up_to_a_bound(stage: Stage) -> None:
    supervisor = stage.supervise({"serve": "raise SystemExit(5)"})
    waits: list[float] = []
    for _ in range(9):
        poll_until(supervisor, lambda: len(stage.said) > len(waits))
        waits.append(float(stage.said[-1].split()[-2]))
        assert stage.said[-1].startswith("serve ended (exit status 5)")
        stage.clock.now_s += waits[-1] - 0.001
        supervisor.poll()
        assert is_down(supervisor)
        stage.clock.now_s += 0.001
        supervisor.poll()
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, LAST_WAIT_S, LAST_WAIT_S, LAST_WAIT_S]


@pytest.mark.parametrize(
    ("status", "said"),
    [(2, "its settings are wrong"), (3, "another one has taken its place")],
)
def test_a_role_that_ends_for_good_is_said_with_its_last_words_and_stays_down(
    stage: Stage, status: int, said: str
) -> None:
    supervisor = stage.supervise({"learn": f"print('why'); raise SystemExit({status})"})
    poll_until(supervisor, lambda: bool(stage.said))
    assert stage.said[0].startswith(f"learn ended (exit status {status}): {said}")
    assert stage.said[0].endswith("it is not started again")
    assert stage.said[1:] == ["  learn: why"]
    stage.clock.now_s += 1_000.0
    supervisor.poll()
    (state,) = supervisor.state()
    assert (state.alive, state.restarts, state.final) == (False, 0, True)
    supervisor.start()  # but whoever asks for it gets it
    assert supervisor.state()[0].alive
    assert not supervisor.state()[0].final


def test_a_minute_alive_makes_the_next_restart_quick_again(stage: Stage) -> None:
    supervisor = stage.supervise({"serve": SLEEP})
    for alive_s, wait_s in [(1.0, 0.5), (1.0, 1.0), (STEADY_S, 0.5), (STEADY_S - 0.1, 1.0)]:
        stage.clock.now_s += alive_s
        stage.said.clear()
        supervisor.kill("serve")
        poll_until(supervisor, lambda: bool(stage.said))
        assert stage.said[0].endswith(f"in {wait_s:g} s")
        stage.clock.now_s += wait_s
        supervisor.poll()


def test_roles_stop_in_the_order_given(stage: Stage) -> None:
    note = (
        "import os, signal, sys, time\n"
        "def stop(*_):\n"
        "    time.sleep(0.1)\n"
        "    with open(os.environ['FOLDER'] + '/order', 'a') as file: file.write('{name} ')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n" + SLEEP
    )
    names = ["ingest", "serve", "watch", "learn"]
    supervisor = stage.supervise({name: note.replace("{name}", name) for name in names})
    stage.ready(*names)
    supervisor.stop(timeout_s=20.0)
    assert (stage.folder / "order").read_text().split() == names


def test_a_role_that_ignores_sigterm_is_killed_at_the_deadline_and_starves_nobody(
    stage: Stage,
) -> None:
    polite = (
        "import os, signal, sys, time\n"
        "def stop(*_):\n"
        "    time.sleep(0.6)\n"
        "    open(os.environ['FOLDER'] + '/orderly', 'w').close()\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n" + SLEEP
    )
    supervisor = stage.supervise({"stubborn": STUBBORN, "polite": polite})
    stage.ready("stubborn", "polite")
    pids = [pid_of(supervisor, name) for name in ("stubborn", "polite")]
    began_s = time.monotonic()
    supervisor.stop(timeout_s=2.0)
    assert 2.0 <= time.monotonic() - began_s < 3.0
    assert (stage.folder / "orderly").exists()
    assert not any(is_alive(pid) for pid in pids)


def test_a_slow_role_may_use_all_the_time_that_the_others_leave(stage: Stage) -> None:
    slow = (
        "import os, signal, sys, time\n"
        "def stop(*_):\n"
        "    time.sleep(1.2)\n"
        "    open(os.environ['FOLDER'] + '/drained', 'w').close()\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n" + SLEEP
    )
    supervisor = stage.supervise({"slow": slow, "a": SLEEP, "b": SLEEP, "c": SLEEP})
    stage.ready("slow", "a", "b", "c")
    supervisor.stop(timeout_s=3.0)  # an equal share would be 0.75 s
    assert (stage.folder / "drained").exists()


def test_a_grandchild_ends_with_its_role(stage: Stage) -> None:
    forks = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open(os.environ['FOLDER'] + '/grandchild', 'w').write(str(child.pid))\n"
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEP
    )
    supervisor = stage.supervise({"forks": forks})
    stage.ready("forks")
    first = int((stage.folder / "grandchild").read_text())
    assert runs(first)
    supervisor.kill("forks")
    poll_until(supervisor, lambda: bool(stage.said))
    within(lambda: not runs(first))
    stage.clock.now_s += FIRST_WAIT_S
    supervisor.poll()
    within(lambda: stage.log("forks").count("ready") == 2)
    second = int((stage.folder / "grandchild").read_text())
    assert second != first
    supervisor.stop(timeout_s=0.2)
    within(lambda: not runs(second))


def test_a_stopped_role_stays_stopped_and_stopping_twice_is_fine(stage: Stage) -> None:
    supervisor = stage.supervise({"serve": "raise SystemExit(1)", "watch": SLEEP})
    pids = [state.pid for state in supervisor.state() if state.pid is not None]
    assert pids
    poll_until(supervisor, lambda: bool(stage.said))
    supervisor.stop(timeout_s=5.0)
    supervisor.stop(timeout_s=5.0)
    stage.clock.now_s += 1_000.0
    supervisor.poll()
    assert not any(state.alive for state in supervisor.state())
    assert not any(is_alive(pid) for pid in pids)  # a zombie would count as alive


def test_a_log_stays_bounded_while_its_role_writes(stage: Stage) -> None:
    chatter = (
        "import sys, time\n"
        "for number in range(4000):\n"
        "    print(f'{number:06d}', 'x' * 92, flush=True)\n"
        "    if number % 100 == 0: time.sleep(0.01)\n" + SLEEP
    )
    bound = 50_000
    supervisor = stage.supervise({"chatter": chatter}, log_bytes=bound)
    largest = 0

    def done() -> bool:
        nonlocal largest
        largest = max(largest, (stage.folder / "chatter.log").stat().st_size)
        return "ready" in stage.log("chatter")

    poll_until(supervisor, done, 30.0)
    old = stage.folder / "chatter.old.log"
    assert old.stat().st_size > bound
    assert largest < 4 * bound < 4000 * 100
    assert "\0" not in stage.log("chatter")  # no hole where the cut was
    assert sorted(path.name for path in stage.folder.iterdir()) == [
        "chatter.log",
        "chatter.old.log",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the watcher is tested on its own")
def test_a_command_that_is_not_there_is_said_and_tried_again(tmp_path: Path) -> None:
    said: list[str] = []
    role = RoleProcess("typo", ["/no/such/program"], {}, tmp_path / "typo.log")
    supervisor = Supervisor([role], say=said.append)
    supervisor.start()
    poll_until(supervisor, lambda: bool(said))
    assert said[0] == "typo ended (exit status 127); starting it again in 0.5 s"
    assert said[1] == "  typo: /no/such/program: No such file or directory"
    supervisor.stop()


def test_a_log_that_cannot_be_opened_is_said_and_tried_again(tmp_path: Path) -> None:
    said: list[str] = []
    blocker = tmp_path / "logs"
    blocker.write_text("a file where the folder should be")
    clock = Clock()
    role = RoleProcess("serve", [sys.executable, "-c", SLEEP], {}, blocker / "serve.log")
    supervisor = Supervisor([role], say=said.append, clock_s=clock)
    supervisor.start()
    assert said[0].startswith("serve cannot be started (")
    blocker.unlink()
    clock.now_s += FIRST_WAIT_S
    supervisor.poll()
    assert supervisor.state()[0].alive
    supervisor.stop()


def test_an_unknown_role_cannot_be_killed_and_a_dead_one_is_left_alone(stage: Stage) -> None:
    supervisor = stage.supervise({"serve": "raise SystemExit(1)"})
    with pytest.raises(KeyError, match="serbe"):
        supervisor.kill("serbe")
    within(lambda: is_down(supervisor))
    supervisor.kill("serve")


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c", "poll"]),
            st.sampled_from([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]),
            st.floats(0.0, 5.0),
        ),
        max_size=10,
    )
)
def test_whatever_is_killed_and_whenever_all_roles_come_back_and_none_is_left_after_stop(
    steps: list[tuple[str, signal.Signals, float]],
) -> None:
    clock = Clock()
    said: list[str] = []
    roles = [
        RoleProcess(name, ["sleep", "600"], {"PATH": os.defpath}, None) for name in ("a", "b", "c")
    ]
    supervisor = Supervisor(roles, say=said.append, clock_s=clock)
    supervisor.start()
    seen: set[int] = set()
    try:
        for name, number, pause_s in steps:
            if name != "poll":
                supervisor.kill(name, number)
            clock.now_s += pause_s
            supervisor.poll()
            seen |= {state.pid for state in supervisor.state() if state.pid is not None}

        def all_back() -> bool:
            clock.now_s += 0.1
            return all(state.alive for state in supervisor.state())

        poll_until(supervisor, all_back)
        states = supervisor.state()
        seen |= {state.pid for state in states if state.pid is not None}
        assert [state.name for state in states] == ["a", "b", "c"]
        assert sum(state.restarts for state in states) <= len(said)
    finally:
        supervisor.stop(timeout_s=5.0)
    assert not any(is_alive(pid) for pid in seen)
