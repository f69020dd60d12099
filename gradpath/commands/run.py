"""`gradpath run`: a training script that nobody changed, with a probe.

The script shares this process, so that as little as possible is imported before it: no PyTorch, no
NumPy, and not the library that reads the other commands' options either, whose modules could be
taken for the script's own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..diagnostics.errors import GradpathError
from ..probes.launch import Session, launch
from . import as_python

INSTRUMENTS = ("light", "standard", "full")


class RunFolderError(GradpathError):
    """The folder that a run is to be recorded in is in use."""


class Order(NamedTuple):
    """What `gradpath run` was asked to do."""

    target: str
    arguments: Sequence[str] = ()
    is_module: bool = False
    folder: str | None = None
    instruments: str = "standard"

    def prepared(self) -> Callable[[], None]:
        """Returns what runs the script, after the user's mistakes have been looked for.

        Raises:
            GradpathError: the script cannot be read, or the folder is in use.
        """
        kind = as_python.module if self.is_module else as_python.script
        program = kind(self.target, self.arguments)
        folder = _folder(self)

        def start() -> Session:
            from ..probes.zero_change import start_session

            return start_session(folder, instruments=self.instruments, script=self.target)

        return lambda: launch(program, start, name=self.target)


def plain_order(arguments: Sequence[str]) -> Order | None:
    """Returns what the arguments after `gradpath run` say.

    Returns:
        None where they ask for help or are wrong: what to say then is the other parser's business.
    """
    given: dict[str, str] = {}
    rest = list(arguments)
    is_module = False
    while rest and rest[0].startswith("-") and rest[0] != "-" and not is_module:
        option, equals, value = rest.pop(0).partition("=")
        if option == "--":
            break
        if option == "-m" and not equals:
            is_module = True
        elif option in ("--run", "--instruments") and (equals or rest):
            given[option] = value if equals else rest.pop(0)
        else:
            return None
    instruments = given.get("--instruments", "standard")
    if not rest or instruments not in INSTRUMENTS:
        return None
    return Order(rest[0], rest[1:], is_module, given.get("--run"), instruments)


def _folder(order: Order) -> str:
    """Returns an absolute path, since the script may change the working folder."""
    if order.folder is not None:
        folder = os.path.abspath(order.folder)
        # Of several processes under torchrun the first one writes, and may have begun already.
        is_first = os.environ.get("RANK", "0") == "0"
        if (
            is_first
            and os.path.exists(folder)
            and not (os.path.isdir(folder) and not os.listdir(folder))
        ):
            raise RunFolderError(
                f"There is something at {order.folder} already: give --run a new folder."
            )
        return folder
    name = order.target.rpartition(".")[2] if order.is_module else _stem(order.target)
    # Several that are started in the same second, as a loop in a shell does, differ in the number
    # of the process; the folder itself comes into being with the first record.
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return os.path.abspath(os.path.join("runs", f"{name}-{stamp}-{os.getpid()}"))


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(os.path.abspath(path)))[0]
