"""``airflow airavata …``: the commands' names and arguments.

Imported for every ``airflow`` command, whatever it is: the work is in ``cli_commands``, ``cli_queues`` and
``cli_report``, which are imported when one of these runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from airflow.cli.cli_config import ActionCommand, Arg, CLICommand, GroupCommand, lazy_load_command

_arg: Callable[..., Arg] = Arg  # Airflow's own has no types

_EXPERIMENT_ID = _arg(("experiment_id",), help="the experiment's id, which is its DAG run's id")
_EXPERIMENT = _arg(("file",), type=Path, metavar="experiment.yaml", help="the experiment")
_PATTERN = _arg(("--pattern",), help="the execution pattern, where the id alone does not tell")
_OTHER_PATTERN = _arg(("--pattern",), help="execution pattern instead of the experiment's or the application's")
_RESOURCE = _arg(("resource",), help="a compute resource of the catalog")
_QUEUE = _arg(("--queue",), help="one of its queues alone; default: the whole resource")
_OUTPUT = _arg(("-o", "--output"), choices=("plain", "json"), default="plain", help="default: plain")
_VERBOSE = _arg(("-v", "--verbose"), action="store_true", help="show Airflow's log, too")


def _command(name: str, module: str, summary: str, *arguments: Arg, description: str | None = None) -> ActionCommand:
    """A command whose work is the function of its name in a module of this package."""
    work = lazy_load_command(f"airavata_provider.{module}.{name.replace('-', '_')}")
    return ActionCommand(name=name, help=summary, description=description, func=work, args=(*arguments, _VERBOSE))


_COMMANDS = (
    _command(
        "submit",
        "cli_commands",
        "Check an experiment and start it",
        _EXPERIMENT,
        _OTHER_PATTERN,
        _arg(("--id",), help="experiment id instead of the file's"),
        _arg(("--wait",), action="store_true", help="stay until it is over"),
        _OUTPUT,
        description=(
            "Checks an experiment against the catalog, tells every fault at once or starts its run. With --wait, "
            "shows each task as it happens and the outputs at the end; the exit code is 0 only if it completed. "
            "Ctrl-C ends the waiting, not the experiment."
        ),
    ),
    _command(
        "script",
        "cli_commands",
        "Print an experiment's job script without submitting it",
        _EXPERIMENT,
        _arg(("--resource",), help="compute resource instead of the experiment's"),
        _OTHER_PATTERN,
        description=(
            "Checks an experiment against the catalog and prints the script of each job that its pattern submits, in "
            "the words of the resource's scheduler. Nothing is submitted, and no secret is in it. What the scheduler "
            "has no words for is told on standard error."
        ),
    ),
    _command(
        "status",
        "cli_commands",
        "Show an experiment: its tasks, its jobs and their histories, its outputs",
        _EXPERIMENT_ID,
        _PATTERN,
        _OUTPUT,
    ),
    _command(
        "history",
        "cli_commands",
        "Show a job's history and explain it",
        _arg(("job",), help="the job's name, or the scheduler's id of it"),
        _arg(("--resource",), help="the compute resource, where an id is not enough"),
        _OUTPUT,
        description=(
            "Shows every piece of news of a job in the order in which it was stored: its source, when it happened by "
            "the source's clock, how much later it arrived, what it did to the job and why; then how the job stands. "
            "The exit code is 1 if there is no such job."
        ),
    ),
    _command(
        "monitor-report",
        "cli_report",
        "Show how the sources of news did: who was first, how long each took",
        _arg(("--since",), metavar="MOMENT", help="only transitions first told of since then; default: all"),
        _arg(("--plots",), type=Path, metavar="DIR", help="draw pictures into that folder, which is made"),
        _OUTPUT,
        description=(
            "Shows, from the news in the job store, which source brought which transition of jobs first, how long "
            "each took from the transition to its news, and how far each was behind the webhook; then what the news "
            "did. --plots draws the same, for which the extra 'plots' has to be installed. "
            "A moment is a date and time (2030-01-31T08:00, of the local time zone where none is given) or a time "
            "before now (30m, 8h, 2d)."
        ),
    ),
    _command(
        "cancel",
        "cli_commands",
        "End an experiment and its jobs",
        _EXPERIMENT_ID,
        _PATTERN,
        _arg(("--no-wait",), action="store_true", help="do not wait for the schedulers to agree"),
        _arg(("--timeout",), type=float, default=600.0, help="seconds to wait at most; default: 600"),
        description=(
            "Puts the end of the experiment's jobs on record, which is repeated on the cluster until the scheduler "
            "agrees, and marks its run as failed. Waits for that."
        ),
    ),
    _command(
        "validate",
        "cli_commands",
        "Check patterns, catalogs and experiments without running anything",
        _arg(("paths",), type=Path, nargs="*", metavar="path", help="files, or folders of *.yaml and *.yml"),
        _OUTPUT,
        description=(
            "Checks the deployment's own catalog and patterns, or the files and folders that are named. Experiments "
            "are checked against the deployment's catalog and patterns together with those that are named. Tells "
            "every fault with its place; the exit code is 1 if there is any."
        ),
    ),
    _command(
        "drain",
        "cli_queues",
        "Let no new jobs go to a resource or a queue, now or for a time",
        _RESOURCE,
        _QUEUE,
        _arg(("--down",), action="store_true", help="call it down instead of draining"),
        _arg(("--from",), dest="starts", metavar="MOMENT", help="from then on; default: now"),
        _arg(("--until",), dest="ends", metavar="MOMENT", help="until then; default: until resume"),
        _arg(("--reason",), default="", help="for the people who wait"),
        description=(
            "Experiments go on, but their jobs wait until it is taken back or over; jobs that are there already "
            "stay. A moment is a date and time (2030-01-31T08:00, of the local time zone where none is given) or a "
            "time from now (30m, 8h, 2d)."
        ),
    ),
    _command(
        "resume",
        "cli_queues",
        "Take back what drain said, also for times to come, and what schedulers' refusals taught",
        _RESOURCE,
        _QUEUE,
    ),
    _command(
        "queues",
        "cli_queues",
        "Show each queue: our jobs there, their limit, how many wait, what was said of it",
        _arg(("resource",), nargs="?", help="one compute resource alone"),
        _OUTPUT,
    ),
    _command(
        "mailboxes",
        "cli_commands",
        "Show how far each mailbox was read, and what became of its messages",
        _OUTPUT,
        description=(
            "One line per folder: the messages counted by what became of them, those that wait for their job, and "
            "when that last changed."
        ),
    ),
)


def get_airavata_cli_commands() -> list[CLICommand]:
    """What Airflow adds to its own commands."""
    return [GroupCommand(name="airavata", help="Run experiments on clusters", subcommands=_COMMANDS)]
