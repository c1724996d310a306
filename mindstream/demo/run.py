"""`mindstream demo`: a whole deployment, a stream through it, an exam, and a summary.

Owns the order of it all, and that everything ends; the parts do the work.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from rich.console import Console

from learners.tasks import task_kind
from mindstream.backbone import torch_precision
from mindstream.clients import (
    kafka_arguments,
    make_join,
    make_producer,
    make_redis,
    make_topics,
    reaching_kafka,
    reaching_redis,
)
from mindstream.demo.collector import Collector, Sources
from mindstream.demo.deploy import (
    CONTROL,
    clear_away,
    demo_settings,
    live_settings,
    pages,
    wait_until_ready,
)
from mindstream.demo.exam import Exam, ExamResult
from mindstream.demo.options import DemoOptions, make_plan
from mindstream.demo.plan import Plan
from mindstream.demo.producer import DemoProducer
from mindstream.demo.screen import Screen
from mindstream.demo.summary import Run, Summary, print_summary, summarize
from mindstream.demo.tally import Moment, Tally
from mindstream.sections import EMBEDDED
from mindstream.settings import Settings
from mindstream.supervisor import Supervisor
from mindstream.up import role_processes, services
from mindstream.wiring import utc_now
from schemas.errors import NoReleaseError
from streams.topics import Topics

TICK_S = 0.1
PATIENCE_S = 60.0  # nothing moves any more for so long: the rest will not come
QUIET_S = 8.0  # after the last example: the gate has refused the last candidate


def run_demo(options: DemoOptions, settings: Settings) -> int:
    """Run a demo from start to summary.

    Args:
        options: of the command.
        settings: of the user, the flags among them; embedded services where they name no others.

    Returns:
        Exit status: 0 when every event is accounted for once, else 1; 130 after Ctrl-C. Wrong
        options raise `SettingsError` before anything is started.
    """
    plan = make_plan(options)
    folder = Path(tempfile.mkdtemp(prefix="mindstream-demo-"))
    mine = demo_settings(
        settings,
        plan,
        folder=folder,
        changes={"model.backbone": _resolved(settings.model.backbone)},
    )
    live = sys.stdout.isatty() and not options.json and not options.plain
    try:
        with _ended_by_signals(), reaching_redis(mine), reaching_kafka(mine):
            if mine.redis.url != EMBEDDED:
                make_redis(mine, retries=0).ping()  # before anything is started
            summary = _Demo(plan, mine, live=live, seed=options.seed).run()
    except KeyboardInterrupt:
        Console(stderr=True).print(f"stopped; the roles' logs are in {folder / 'logs'}")
        return 130
    finally:
        for part in folder.iterdir():
            if part.name != "logs":
                shutil.rmtree(part, ignore_errors=True)
    print_summary(summary, Console(stderr=options.json, highlight=False))
    if options.json:
        sys.stdout.write(summary.as_json() + "\n")
        sys.stdout.flush()
    return 0 if summary.holds else 1


def _resolved(backbone: str) -> str:
    """Make a folder's name absolute: roles may run elsewhere."""
    if Path(backbone).is_dir():
        return str(Path(backbone).resolve())
    return backbone


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Demo:
    """One run.

    Args:
        plan: what is streamed.
        settings: the demo's own.
        live: draw on the terminal.
        seed: for the summary.
    """

    def __init__(self, plan: Plan, settings: Settings, *, live: bool, seed: int) -> None:
        self.plan = plan
        self.settings = settings
        self.seed = seed
        self.logs = settings.data_dir / "logs"
        self.tally = Tally(
            plan,
            kind=task_kind(plan.kind),
            held_out_share=settings.replay.held_out_share,
            feedback_topic=Topics(settings.kafka.prefix).feedback,
        )
        self.screen = Screen(self.tally, title=plan.title, total=len(plan.events), live=live)

    def run(self) -> Summary:
        """Stream, stop the roles, hold the exam, sum up."""
        with self.screen, services(self.settings, self.screen.say) as running:
            live = live_settings(self.settings, running.overrides)
            self._introduce()
            if not running.embedded_kafka:
                make_topics(live)
            supervisor = Supervisor(
                role_processes(self.settings, running.overrides, log_dir=self.logs),
                say=self.screen.say,
            )
            try:
                supervisor.start()
                seconds = self._stream(live, supervisor)
                self.screen.show(supervisor.state(), phase="stopping the roles")
            finally:
                supervisor.stop(timeout_s=10.0)
                clear_away(
                    live,
                    embedded_kafka=running.embedded_kafka,
                    user_redis=self.settings.redis.url != EMBEDDED,
                )
            exam = self._exam()
        run = Run(
            task=self.plan.task,
            kind=self.plan.kind,
            strategy=self.settings.learn.strategy,
            seed=self.seed,
            seconds=seconds,
        )
        return summarize(run, self.tally.moment(), staleness_s=self.tally.staleness_s(), exam=exam)

    def _introduce(self) -> None:
        say = self.screen.say
        say(f"streaming {self.plan.title}")
        say(f"logs of the roles: {self.logs}")
        if self.settings.learn.strategy == CONTROL:
            say("naive is the control: the gate lets everything pass, so that forgetting shows")
        found = pages(self.settings)
        say("pages: " + " ".join(f"{role} {url}" for role, url in found.items()))

    def _stream(self, live: Settings, supervisor: Supervisor) -> float:
        """Stream everything and wait for its effects; gives the seconds it took."""
        wait_until_ready(
            live,
            supervisor,
            logs=self.logs,
            waiting=lambda words: self.screen.show(supervisor.state(), phase=words),
        )
        topics = Topics(live.kafka.prefix)
        redis = make_redis(live)
        collector = Collector(
            Sources(
                connect=partial(_make_consumer, live),
                topics=topics,
                join=make_join(live, redis),
                pages=pages(live),
            ),
            self.tally,
        )
        producer = DemoProducer(
            self.plan,
            connect=partial(make_producer, live),
            topics=topics,
            tally=self.tally,
            now=utc_now,
        )
        try:
            collector.start()
            self.screen.started_s = started_s = time.monotonic()
            producer.start()
            return self._watch(supervisor, producer, collector) - started_s
        finally:
            producer.stop()
            collector.stop()
            redis.close()

    def _watch(self, supervisor: Supervisor, producer: DemoProducer, collector: Collector) -> float:
        """Look after everything until it is done; gives the time of the last effect, seconds."""
        last: tuple[int, ...] = ()
        effect_s = time.monotonic()
        while True:
            supervisor.poll()
            for part in (producer, collector):
                if part.error is not None:
                    raise part.error
            moment = self.tally.moment()
            state = _state(moment)
            if state != last:
                last, effect_s = state, time.monotonic()
            quiet_s = time.monotonic() - effect_s
            if not producer.done:
                phase = "streaming"
            else:
                missing = self._missing(moment)
                if missing is None and quiet_s > QUIET_S:
                    missing = ""
                if missing == "":
                    return effect_s
                if quiet_s > PATIENCE_S:
                    self.screen.say(f"gave up waiting for {missing or 'the last release'}")
                    return effect_s
                phase = f"waiting for {missing or 'the last release'}"
            self.screen.show(supervisor.state(), phase=phase)
            time.sleep(TICK_S)

    def _missing(self, moment: Moment) -> str | None:
        """Say what has not arrived: None for only the last release, empty for nothing."""
        behind = {name: count for name, count in moment.behind.items() if count > 0}
        if behind:
            return ", ".join(f"{name} ({count:,} behind)" for name, count in behind.items())
        return "" if self.tally.covers_all() else None

    def _exam(self) -> ExamResult | None:
        """Ask the final release, and those at the waves' ends; None when there is none."""
        self.screen.show([], phase="exam")
        import torch

        from learners.registry import Registry
        from learners.released import EncoderCache, ReleasedModel

        torch.set_num_threads(os.cpu_count() or 1)
        registry = Registry(self.settings.store_url)
        model = self.settings.model
        encoders = EncoderCache(device=model.device, precision=torch_precision(self.settings))
        try:
            final = registry.latest(self.plan.task)
        except NoReleaseError:
            return None

        def load(version: str) -> ReleasedModel:
            release = registry.get(self.plan.task, version)
            return ReleasedModel.load(release, registry, encoders=encoders)

        ends = {
            wave: partial(load, version)
            for wave, version in enumerate(self.tally.wave_ends())
            if version is not None and version != final.version
        }
        exam = Exam(
            self.plan.exam,
            waves=len(self.plan.waves),
            kind=task_kind(self.plan.kind),
            say=lambda words: self.screen.show([], phase=words),
        )
        return exam.take(load(final.version), ends)


def _state(moment: Moment) -> tuple[int, ...]:
    return (
        moment.accounted,
        moment.feedback_accounted,
        moment.answers,
        moment.learned,
        len(moment.releases),
        moment.rejected,
    )


def _make_consumer(settings: Settings) -> object:
    from kafka import KafkaConsumer

    return KafkaConsumer(
        **kafka_arguments(settings),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=50,
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )
