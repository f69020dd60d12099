"""The `gradpath` command.

PyTorch takes more than a second to import, so a command imports what it needs when it runs, and
`gradpath --help` stays instant. What a user did wrong comes out as one line on stderr with exit
status 2; a traceback is for our own mistakes, and for `--debug`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import takewhile


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    Args:
        arguments: what follows the command's name; by default what the process was started with.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    # Read here, not by typer: it has to hold for errors in the options themselves. Only what stands
    # before the subcommand counts, since a user's script may have a --debug of its own.
    debug = "--debug" in takewhile(lambda argument: argument.startswith("-"), arguments)
    try:
        result = _plain_run(arguments) or _through_typer(arguments)
    except Exception as error:
        if not _is_of_the_user(error):
            raise
        if debug:
            import traceback

            traceback.print_exc()
        print(f"gradpath: {_one_line(error)}", file=sys.stderr)
        return 2
    if not callable(result):
        return int(result or 0)
    result()  # out here, where a script's exceptions are its own
    return 0


def _plain_run(arguments: Sequence[str]) -> Callable[[], None] | None:
    """Returns what runs a script, without typer: its modules would be in the script's process.

    None where there is anything to explain, or another command.
    """
    if arguments[:1] != ["run"]:
        return None
    from .commands.run import plain_order

    order = plain_order(arguments[1:])
    return order.prepared() if order else None


def _through_typer(arguments: Sequence[str]) -> Callable[[], None] | int | None:
    """Returns what a command does: an exit status, or what runs a script."""
    import typer

    from .commands.app import app

    # Calling the app itself would put a hook for exceptions in place, in the script's process.
    command = typer.main.get_command(app)
    result: Callable[[], None] | int | None = command(
        args=list(arguments), prog_name="gradpath", standalone_mode=False
    )
    return result


def _is_of_the_user(error: Exception) -> bool:
    import typer

    if isinstance(error, typer.TyperException):
        return True
    # Here and not on top: where the parts cannot be found, `gradpath doctor` must still say why.
    from .diagnostics.errors import GradpathError

    return isinstance(error, GradpathError)


def _one_line(error: Exception) -> str:
    import typer

    if not isinstance(error, typer.TyperException):
        return " ".join(str(error).split())
    message = " ".join(error.format_message().split())
    stop = "" if message.endswith((".", "?")) else "."
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "gradpath"
    return f"{message}{stop} See `{command} --help`."
