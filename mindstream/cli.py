"""The command line: names, help and flags. Every command hands over to a function elsewhere.

Owns what a user types and reads; must not know how anything works.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from mindstream import __version__
from mindstream.exits import WRONG, status_of
from mindstream.problems import MASK
from mindstream.settings import Settings, commented_file, flatten, load_settings
from schemas.errors import MindstreamError, SettingsError

app = typer.Typer(
    name="mindstream",
    help="Keep a transformer learning from a live Kafka stream.\n\n"
    "See it work: `mindstream demo`. Run it here: `mindstream up`. Run it at scale: one or more "
    "processes each of `ingest`, `serve` and `watch`, and one `learn`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
topics_app = typer.Typer(help="List and create the Kafka topics.", no_args_is_help=True)
releases_app = typer.Typer(help="List releases, look into one, roll back.", no_args_is_help=True)
config_app = typer.Typer(help="Write, check and show the settings.", no_args_is_help=True)
send_app = typer.Typer(help="Send interactions and feedback.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")
app.add_typer(releases_app, name="releases")
app.add_typer(config_app, name="config")
app.add_typer(send_app, name="send")

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="Settings file (TOML). Default: ./mindstream.toml if it is there."
    ),
]
SetFlags = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="NAME=VALUE", help="Any setting, such as learn.seed=7. Repeatable."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main() -> None:
    """Run the command line; an error of ours is a line and an exit status, never a traceback."""
    try:
        app()
    except SettingsError as error:
        err.print("[bold red]These settings are wrong:[/]")
        for problem in error.problems:
            err.print(f"  {problem}", markup=False, soft_wrap=True)
        err.print("`mindstream config init` writes down every setting with its rule.", markup=False)
        sys.exit(WRONG)
    except MindstreamError as error:
        err.print(f"error: {error}", markup=False, style="red", soft_wrap=True)
        sys.exit(status_of(error))


def settings_of(
    config: Path | None, flags: list[str] | None, extra: dict[str, Any] | None = None
) -> Settings:
    """Load settings from file, variables and flags.

    Raises:
        SettingsError: a flag is not NAME=VALUE, or a setting is wrong.
    """
    overrides: dict[str, Any] = {}
    for flag in flags or []:
        name, equals, value = flag.partition("=")
        if not equals or not name:
            raise SettingsError([f"--set {flag!r}: must be NAME=VALUE, such as learn.seed=7"])
        overrides[name.strip()] = value
    given = {name: value for name, value in (extra or {}).items() if value is not None}
    return load_settings(config, {**overrides, **given})


def _version(value: bool) -> None:
    if value:
        out.print(f"mindstream {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


@app.command()
def demo(  # noqa: PLR0913  # a command has as many parameters as flags
    data: Annotated[
        Path | None,
        typer.Option(
            help="Labelled texts to stream: JSON lines or CSV, gzipped or not. "
            "Default: a simulated support desk."
        ),
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    label_column: Annotated[
        str, typer.Option(help="Column of the labels; lists make a multilabel task.")
    ] = "label",
    order: Annotated[str, typer.Option(help="file, shuffled, class-incremental or time.")] = "file",
    drop_label: Annotated[
        list[str] | None, typer.Option(help="Leave out rows with this label. Repeatable.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Stream so many interactions at most.")] = None,
    strategy: Annotated[
        str | None, typer.Option(help="two-speed (default), er, ewc, naive...; see learn.strategy.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Another encoder: a folder or a Hugging Face name.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of everything random; learn.seed in the settings.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Interactions a second, at most.")] = None,
    duration: Annotated[
        float | None, typer.Option(help="Length of the simulated stream, seconds.")
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="End with one line of JSON on stdout.")
    ] = False,
    plain: Annotated[bool, typer.Option(help="Lines instead of the live view.")] = False,
    config: ConfigFile = None,
    set_: SetFlags = None,
) -> None:
    """Watch a model learn from a stream: everything embedded, nothing to install or configure.

    Starts Kafka, Redis and the four roles, streams, examines the model at the end on texts it
    never saw, and accounts for every event. Exit status 1 when one is missing or counted twice.
    The encoder stays as it is unless you say --set consolidation.enabled=true.
    """  # noqa: DOC501
    from mindstream.demo.options import DemoOptions
    from mindstream.demo.run import run_demo

    settings = settings_of(
        config,
        ["consolidation.enabled=false", *(set_ or [])],  # it would take half of a small machine
        {"learn.strategy": strategy, "learn.seed": seed, "model.backbone": backbone},
    )
    options = DemoOptions(
        data=data,
        text_column=text_column,
        label_column=label_column,
        order=order,
        drop_labels=tuple(drop_label or ()),
        limit=limit,
        seed=settings.learn.seed,
        rate=rate,
        duration_s=duration,
        json=json_,
        plain=plain,
    )
    raise typer.Exit(run_demo(options, settings))


@app.command()
def up(config: ConfigFile = None, set_: SetFlags = None) -> None:
    """Run all four roles on this machine, under one supervisor.

    Without settings it starts an embedded Kafka and an embedded Redis too, and says what they
    cannot do. Ctrl-C stops everything in order.
    """  # noqa: DOC501
    from mindstream.up import run_up

    raise typer.Exit(run_up(settings_of(config, set_)))


def _role(name: str, help_text: str) -> None:
    def command(config: ConfigFile = None, set_: SetFlags = None) -> None:
        from mindstream.wiring import run_role

        run_role(settings_of(config, set_), name)

    app.command(name, help=help_text)(command)


_role(
    "ingest",
    "Run the ingest role: validate, drop repeats, join late labels, fill replay memory.\n\n"
    "A Faust worker; start as many as there are partitions.",
)
_role(
    "serve",
    "Run the serve role: predict on every interaction, swap in releases as they come.\n\n"
    "A Faust worker; start as many as there are partitions. HTTP: /healthz /readyz /metrics "
    "/releases.",
)
_role(
    "watch",
    "Run the watch role: score what was served, detect drift.\n\nA Faust worker; start as many "
    "as there are partitions.",
)


@app.command()
def learn(
    config: ConfigFile = None,
    set_: SetFlags = None,
    strategy: Annotated[
        str | None, typer.Option(help="two-speed, er, ewc, naive...; see learn.strategy.")
    ] = None,
) -> None:
    """Run the learn role: learn every example once, release what passes the gate.

    One process a deployment; a second one takes over from the first.
    """
    from mindstream.wiring import run_role

    run_role(settings_of(config, set_, {"learn.strategy": strategy}), "learn")


@topics_app.command("list")
def topics_list(config: ConfigFile = None, set_: SetFlags = None) -> None:
    """List every topic: its key, its clean-up and what it carries."""
    from streams.topics import TABLE, Topics

    topics = Topics(settings_of(config, set_).kafka.prefix)
    table = Table(Column("topic", no_wrap=True), "key", "cleanup", "carries")
    for row in TABLE:
        table.add_row(topics.full(row.name), row.key, row.cleanup, row.about)
    out.print(table)


@topics_app.command("create")
def topics_create(config: ConfigFile = None, set_: SetFlags = None) -> None:
    """Create the topics that are missing, with kafka.partitions and kafka.replication."""
    from mindstream.clients import make_topics

    created = make_topics(settings_of(config, set_))
    out.print(f"created {', '.join(created)}" if created else "all topics are there")


@config_app.command("init")
def config_init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("mindstream.toml"),
    force: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
) -> None:
    """Write a settings file in which every setting is explained.

    Raises:
        SettingsError: the file is there already.
    """
    if path.exists() and not force:
        raise SettingsError([f"{path}: is there already; --force replaces it"])
    path.write_text(commented_file())
    out.print(f"wrote {path}")


@config_app.command("check")
def config_check(config: ConfigFile = None, set_: SetFlags = None) -> None:
    """Check the settings: every problem at once, exit status 2 when there is one."""
    settings_of(config, set_)
    out.print("the settings are right")


@config_app.command("show")
def config_show(config: ConfigFile = None, set_: SetFlags = None, as_json: Json = False) -> None:
    """Show every setting as it is now, secrets masked."""
    settings = settings_of(config, set_)
    values = flatten(settings.model_dump(mode="json"))
    for name in ("kafka.password", "redis.url", "store.url", "http.token"):
        if values[name] not in ("", "embedded") and (name != "store.url" or "@" in values[name]):
            values[name] = MASK
    if as_json:
        out.print_json(json.dumps(values))
        return
    table = Table("setting", "value")
    for name, value in values.items():
        table.add_row(name, str(value))
    out.print(table)


@releases_app.command("list")
def releases_list(
    task: Annotated[str | None, typer.Argument(help="Only this task.")] = None,
    config: ConfigFile = None,
    set_: SetFlags = None,
    as_json: Json = False,
) -> None:
    """List the releases of each task, newest first, with the gate's figures."""
    from mindstream.operations import list_releases

    list_releases(settings_of(config, set_), task, as_json=as_json, out=out)


@releases_app.command("show")
def releases_show(
    task: Annotated[str, typer.Argument(help="A task of this deployment.")],
    version: Annotated[str, typer.Argument(help="As `releases list` shows it.")],
    config: ConfigFile = None,
    set_: SetFlags = None,
) -> None:
    """Print the manifest of one release."""
    from mindstream.operations import show_release

    show_release(settings_of(config, set_), task, version, out=out)


@releases_app.command("rollback")
def releases_rollback(
    task: Annotated[str, typer.Argument(help="A task of this deployment.")],
    version: Annotated[str, typer.Argument(help="The release that shall serve again.")],
    config: ConfigFile = None,
    set_: SetFlags = None,
) -> None:
    """Make an earlier release serve again, at once; new ones are held until `releases resume`."""
    from mindstream.operations import roll_back

    roll_back(settings_of(config, set_), task, version, out=out)


@releases_app.command("resume")
def releases_resume(
    task: Annotated[str, typer.Argument(help="A task of this deployment.")],
    config: ConfigFile = None,
    set_: SetFlags = None,
) -> None:
    """Let new releases replace the one that serves again, after a rollback."""
    from mindstream.operations import resume_releases

    resume_releases(settings_of(config, set_), task, out=out)


@send_app.command("interaction")
def send_interaction(
    text: Annotated[str, typer.Argument(help="What the user wrote; - reads lines from stdin.")],
    task: Annotated[str | None, typer.Option(help="Default: the first task.")] = None,
    user: Annotated[str, typer.Option(help="Who wrote it.")] = "console",
    label: Annotated[
        list[str] | None, typer.Option(help="The truth, if known. Repeatable for multilabel.")
    ] = None,
    wait_s: Annotated[float, typer.Option(help="Wait so long for the prediction; 0: do not.")] = 5,
    config: ConfigFile = None,
    set_: SetFlags = None,
) -> None:
    """Send an interaction and print the prediction that comes back."""
    from mindstream.operations import NewInteraction, send_interactions

    texts = [line.strip() for line in sys.stdin if line.strip()] if text == "-" else [text]
    new = [NewInteraction(text=line, task=task, user=user, labels=label or []) for line in texts]
    send_interactions(settings_of(config, set_), new, wait_s=wait_s, out=out)


@send_app.command("feedback")
def send_feedback(
    interaction: Annotated[str, typer.Argument(help="Id of the interaction.")],
    label: Annotated[list[str], typer.Argument(help="The truth; several for multilabel.")],
    correction: Annotated[
        bool, typer.Option(help="Replace the label that was given before.")
    ] = False,
    config: ConfigFile = None,
    set_: SetFlags = None,
) -> None:
    """Send the label of an earlier interaction."""
    from mindstream.operations import send_label

    send_label(settings_of(config, set_), interaction, label, correction=correction, out=out)


@app.command()
def status(config: ConfigFile = None, set_: SetFlags = None, as_json: Json = False) -> None:
    """Show what runs, what came in and what became of it, what serves and how well.

    Exit status 1 when a role or Redis does not answer; what does is shown all the same.
    """  # noqa: DOC501
    from mindstream.status import show_status

    raise typer.Exit(show_status(settings_of(config, set_), as_json=as_json, out=out))
