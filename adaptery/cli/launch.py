"""`--launch`: a command in several processes, started by accelerate's launcher, with one voice."""

import logging
import os
import shlex
import signal
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from adaptery.errors import AdapteryError, ConfigError, Interrupted

PATIENCE = timedelta(seconds=5)  # for the launcher's store to answer


def launch(arguments: str) -> NoReturn:
    """Run this command again in the processes that `accelerate launch` would start, and exit.

    The exit code is that of the process that failed first, or 0.

    Args:
        arguments: those of `accelerate launch`, such as `--num_processes 4`.

    Raises:
        ConfigError: the launcher does not know such arguments, or cannot do that here.
    """
    from subprocess import CalledProcessError

    from accelerate.commands.launch import launch_command
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    context = click.get_current_context()
    wanted = parse(arguments, again(context))
    for talkative in ("torch.distributed", "accelerate"):
        logging.getLogger(talkative).setLevel(logging.CRITICAL)  # our processes say what is wrong
    try:
        launch_command(wanted)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        context.exit(exit_code(failure.exitcode))
    except CalledProcessError as error:
        context.exit(exit_code(error.returncode))
    except (SignalException, KeyboardInterrupt):
        context.exit(Interrupted.exit_code)
    except (ValueError, ImportError, ConnectionError, AssertionError) as error:
        raise ConfigError(f"--launch {arguments!r} cannot be done: {error}") from error
    context.exit()


def exit_code(code: int) -> int:
    """A process' exit code; as shells have it where a signal ended the process."""
    return code if code >= 0 else 128 - code


def parse(arguments: str, command: Sequence[str]) -> Namespace:
    """What `accelerate launch` makes of its arguments."""
    from accelerate.commands.launch import launch_command_parser

    parser = launch_command_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"--launch takes arguments of `accelerate launch`: {message}.")

    parser.error = refuse
    wanted: Namespace = parser.parse_args(
        [*shlex.split(arguments), "--module", "adaptery.cli", *command]
    )
    processes = wanted.num_processes or 1
    if wanted.cpu and processes > 1:
        # The launcher would start a single process on a CPU; as if for GPUs, it starts them all.
        wanted.cpu, wanted.multi_gpu = False, True
        os.environ["ACCELERATE_USE_CPU"] = "true"
    if not wanted.config_file:
        wanted.mixed_precision = wanted.mixed_precision or "no"  # ours is training.precision
        wanted.dynamo_backend = wanted.dynamo_backend or "no"
        wanted.num_machines = wanted.num_machines or 1
        wanted.num_cpu_threads_per_process = wanted.num_cpu_threads_per_process or threads(
            processes
        )
        if wanted.num_machines == 1 and wanted.main_process_port is None:
            wanted.main_process_port = 0  # any free one
    return wanted


def threads(processes: int) -> int:
    """Threads of one process, so that all of them together have each core once."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() else max(1, (os.cpu_count() or 1) // processes)


def again(context: click.Context) -> list[str]:
    """The command line of this command, as it was given, but for `--launch`."""
    words = [context.info_name or ""]
    for parameter in context.command.params:
        name = parameter.name or ""
        value: Any = context.params.get(name)
        source = context.get_parameter_source(name)
        if source is not ParameterSource.COMMANDLINE or name == "launcher":
            continue
        flag = [parameter.opts[0]] if isinstance(parameter, click.Option) else []
        if getattr(parameter, "is_flag", False):
            words += flag
        else:
            for one in value if getattr(parameter, "multiple", False) else [value]:
                words += [*flag, str(one)]
    return words


@contextmanager
def one_voice() -> Iterator[None]:
    """Of processes that were launched together and fail, only the first says why.

    The others fail of the same, or because the first one left.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    try:
        yield
    except BaseException as error:
        if isinstance(error, SystemExit) or first_to_fail():
            raise
        interrupted = isinstance(error, KeyboardInterrupt)
        code = error.exit_code if isinstance(error, AdapteryError) else 1
        sys.exit(128 + signal.SIGINT if interrupted else code)


def first_to_fail() -> bool:
    """Whether no other process has failed before, by the store that the launcher keeps."""
    from torch.distributed import DistError, TCPStore

    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(address, port, is_master=False, timeout=PATIENCE)
        return bool(store.add("adaptery/failed", 1) == 1)
    except (KeyError, ValueError, DistError, RuntimeError):  # another launcher, or it has gone
        return os.environ.get("RANK", "0") == "0"
