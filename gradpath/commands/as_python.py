"""Running a script or a module in this process, as `python SCRIPT` and `python -m MODULE` do.

What a program can see of how it was started is made what it would be without us: `__main__`,
`sys.argv`, `sys.path[0]`, the traceback of an exception and whom it is shown by, and the exit
status. What stays different: `sys.orig_argv` says what was really typed, and who walks up the stack
finds us at its end.
"""

from __future__ import annotations

import builtins
import functools
import io
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from types import ModuleType, TracebackType

from ..diagnostics.errors import GradpathError

# The interpreter goes on using two things that it does not hold: the names of the `__main__` that
# it ran, and the hook for exceptions while it calls it.
_held: list[object] = []


class ScriptError(GradpathError):
    """There is no such script, or it cannot be read."""


def script(path: str, arguments: Sequence[str]) -> Callable[[], None]:
    """Returns what runs `python PATH ARGUMENTS`; a folder or an archive holds a `__main__`.

    Raises:
        ScriptError: it cannot be read.
    """
    # As the interpreter does: absolute, and otherwise as it was typed.
    file = os.path.join(os.getcwd(), path)
    if pkgutil.get_importer(file) is not None:
        return functools.partial(_run_folder, path, file, arguments)
    try:
        with io.open_code(file) as opened:
            source = opened.read()
    except OSError as error:
        raise ScriptError(
            f"{path} cannot be run ({error.strerror}): give a Python file, or -m and a module."
        ) from error
    return functools.partial(_run_script, path, file, source, arguments)


def module(name: str, arguments: Sequence[str]) -> Callable[[], None]:
    """Returns what runs `python -m NAME ARGUMENTS`."""
    return functools.partial(_run_module, name, arguments)


def _run_script(path: str, file: str, source: bytes, arguments: Sequence[str]) -> None:
    sys.argv[:] = [path, *arguments]
    _set_first_path(os.path.dirname(os.path.realpath(file)))
    main = _new_main(__file__=file, __cached__=None, __loader__=SourceFileLoader("__main__", file))

    def run() -> None:
        exec(compile(source, file, "exec", dont_inherit=True), vars(main))

    _with_its_own_traceback(run)


def _run_folder(path: str, file: str, arguments: Sequence[str]) -> None:
    sys.argv[:] = [path, *arguments]
    if sys.flags.safe_path:
        sys.path.insert(0, file)
    else:
        sys.path[0] = file
    _run_main_module("__main__", False)


def _run_module(name: str, arguments: Sequence[str]) -> None:
    sys.argv[:] = ["-m", *arguments]
    _set_first_path(os.getcwd())
    _run_main_module(name, True)


def _run_main_module(name: str, alter_argv: bool) -> None:
    import runpy

    _new_main()
    # What the interpreter itself calls; its public relatives put other names into `__main__`.
    run = runpy._run_module_as_main  # type: ignore[attr-defined]
    _with_its_own_traceback(functools.partial(run, name, alter_argv))


def _set_first_path(folder: str) -> None:
    # Under `python -P` it is not the script's folder, nor was it ours.
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _new_main(**names: object) -> ModuleType:
    main = ModuleType("__main__")
    vars(main).update(__builtins__=builtins, __annotations__={}, **names)
    _held.append(sys.modules["__main__"])
    sys.modules["__main__"] = main
    return main


def _with_its_own_traceback(run: Callable[[], None]) -> None:
    """Runs, and has an exception shown from the first frame that is not of this module."""
    try:
        run()
    except SystemExit:
        raise
    except BaseException as error:
        own = error.__traceback__
        while own is not None and own.tb_frame.f_code.co_filename == __file__:
            own = own.tb_next
        _show_from(own)
        raise


def _show_from(own: TracebackType | None) -> None:
    """Has the exception that is about to leave the interpreter's last frame shown with a traceback.

    On its way there it gains frames of ours. The interpreter then calls `sys.excepthook`, which is
    the program's to choose, joins threads, runs exit handlers and ends as the exception demands:
    a KeyboardInterrupt by the signal.
    """
    hook = getattr(sys, "excepthook", sys.__excepthook__)

    def show(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
        sys.excepthook = hook
        sys.last_traceback = error.__traceback__ = own
        try:
            hook(kind, error, own)
        except SystemExit:
            raise
        except BaseException as failure:
            # Word for word what the interpreter says of such a hook.
            tail = failure.__traceback__ and failure.__traceback__.tb_next
            print("Error in sys.excepthook:", file=sys.stderr)
            sys.__excepthook__(type(failure), failure.with_traceback(tail), tail)
            print("\nOriginal exception was:", file=sys.stderr)
            sys.__excepthook__(kind, error, own)

    _held.append(show)
    sys.excepthook = show
