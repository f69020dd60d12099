"""Watching a program that nobody wrote to be watched, from its import of PyTorch to its end.

A program sets environment variables that PyTorch and NumPy read once, when they are imported. So
this module imports neither, and nothing that does: it waits until the program itself has imported
`torch`, and only then calls for a session, which may import what it likes. The session ends when
the process does, after the program's threads and exit handlers, which may still train.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Protocol


class Session(Protocol):
    """What watches the program once PyTorch is there."""

    def finish(self) -> None:
        """Called at the end of a program that ended well, also by `sys.exit(0)`."""
        ...

    def fail(self, error: BaseException) -> None:
        """Called instead where an exception ended it, or `sys.exit` with a status or a text."""
        ...

    def summary(self) -> str | None:
        """Called last: one line for stderr, such as where the run is; None for nothing."""
        ...


def launch(program: Callable[[], object], start: Callable[[], Session], *, name: str) -> None:
    """Runs a program and has it watched; returns or raises what the program does.

    Whatever goes wrong with the session is a line on stderr and never an exception. Forked
    processes are not watched, nor others that the program starts: nothing is handed down to them.

    Args:
        program: what to run, in the main thread. Once in a process.
        start: called when the program has imported `torch`, before it goes on; at once where
            `torch` is there already.
        name: of the program, for lines on stderr.
    """
    watch = _Watch(name, start)
    # Exit handlers run last in, first out, and the finalizers of weakref are one of them, coming
    # into being with the first finalizer: with this one, so that what they close, such as the lock
    # of a run, is open until the session has ended.
    weakref.finalize(watch, int)
    atexit.register(watch.end)
    if "torch" in sys.modules:
        watch.begin()
    else:
        sys.meta_path.insert(0, _TorchFinder(watch.begin))
    try:
        program()
    except BaseException as error:
        watch.error = error
        raise


def tell(line: str) -> None:
    """Writes a line to the stderr that the process was started with.

    The program may have put another stream in its place, or closed it.
    """
    if sys.__stderr__ is not None:
        with contextlib.suppress(OSError, ValueError):
            print(f"gradpath: {line}", file=sys.__stderr__, flush=True)


class _Watch:
    def __init__(self, name: str, start: Callable[[], Session]) -> None:
        self.error: BaseException | None = None
        self._name = name
        self._start = start
        self._process = os.getpid()
        self._has_begun = False
        self._session: Session | None = None

    def begin(self) -> None:
        if self._has_begun or os.getpid() != self._process:
            return
        self._has_begun = True
        try:
            self._session = self._start()
        except Exception as error:
            tell(f"{self._name} runs on unrecorded, the probe could not start: {_line(error)}")

    def end(self) -> None:
        if os.getpid() != self._process:
            return
        if not self._has_begun:
            tell(f"{self._name} never imported torch, so nothing was recorded.")
        if self._session is None:
            return
        try:
            if self.error is None or _is_success(self.error):
                self._session.finish()
            else:
                self._session.fail(self.error)
            summary = self._session.summary()
        except Exception as error:
            summary = f"The recording of {self._name} did not end well: {_line(error)}"
        if summary:
            tell(summary)


def _is_success(error: BaseException) -> bool:
    return isinstance(error, SystemExit) and (error.code is None or error.code == 0)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


class _TorchFinder:
    """Stands first among the finders of modules, and leaves finding `torch` to the others."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torch":
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next(filter(None, found), None)
        if spec is not None:
            self._call_when_loaded(spec)
        return spec

    def _call_when_loaded(self, spec: ModuleSpec) -> None:
        """Has the spec tell when the import system says that its module is complete.

        Running the module in a loader of our own would put a frame of ours into every traceback
        of a PyTorch that cannot be imported. Many a program only asks for the spec, to see whether
        there is a PyTorch; then nothing is told.
        """
        plain = type(spec)

        def set_attribute(spec: ModuleSpec, name: str, value: object) -> None:
            plain.__setattr__(spec, name, value)
            if name == "_initializing" and not value and "torch" in sys.modules:
                spec.__class__ = plain
                with contextlib.suppress(ValueError):
                    sys.meta_path.remove(self)
                self._then()

        spec.__class__ = type(plain.__name__, (plain,), {"__setattr__": set_attribute})
