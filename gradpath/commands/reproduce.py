"""`gradpath reproduce`: the models of the paper on a problem, trained, compared and reported."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..diagnostics.errors import ArgumentError
from ..experiments.dask_cluster import dask_executor
from ..experiments.reproduction import Page, PageProgress, reproduce, reproduction
from ..experiments.sweep_file import read_sweep
from ..experiments.sweep_grid import Member, Sweep
from ..experiments.sweeps import SweepResult
from .terminal import aligned, console, number, plain

_FILE = ".toml"
_USUAL_PRESET = "quick"
_INTERRUPTED = 130  # as a shell says it of a program that Ctrl-C has ended


@dataclass(frozen=True)
class Order:
    """What is to be trained, as the command line says it."""

    problem: str  # or the file of a sweep
    preset: str | None
    models: str | None
    complexity: str | None
    seeds: int | None
    steps: int | None
    workers: int | None
    dask: str | None
    folder: str | None
    resume: bool

    @property
    def sweep(self) -> Sweep:
        """The sweep that is meant.

        Raises:
            ArgumentError: a part of it is out of its range, or said twice.
        """
        if self.problem.endswith(_FILE):
            said = (self.preset, self.models, self.complexity, self.seeds, self.steps)
            if any(each is not None for each in said):
                raise ArgumentError(
                    f"{self.problem} declares the whole sweep; leave out --preset, --models, "
                    "--complexity, --seeds and --steps, or write there what they say."
                )
            return read_sweep(self.problem)
        return reproduction(
            self.problem,
            self.preset or _USUAL_PRESET,
            models=None if self.models is None else _listed(self.models),
            complexities=None if self.complexity is None else numbers(self.complexity),
            seeds=self.seeds,
            steps=self.steps,
        )

    @property
    def usual_folder(self) -> str:
        """Where it is trained if nothing is said."""
        if self.problem.endswith(_FILE):
            return f"runs/{Path(self.problem).stem}"
        return f"runs/{self.problem}-{self.preset or _USUAL_PRESET}"


def run_reproduction(order: Order) -> int:
    """Trains, writes all pages, says where they are, and returns the exit status.

    Raises:
        GradpathError: something about the order cannot be.
    """
    if order.dask is not None and order.workers is not None:
        raise ArgumentError("A Dask cluster has its own workers; give one of --workers, --dask.")
    folder = Path(order.folder or order.usual_folder)
    sweep = order.sweep
    try:
        with _cluster(order.dask) as executor, shown_pages() as pages:
            found = reproduce(
                sweep,
                folder,
                executor=executor,
                workers=order.workers,
                resume=order.resume,
                page_progress=pages,
            )
    except KeyboardInterrupt:
        errors = Console(stderr=True)
        errors.print(
            Text("gradpath: interrupted; the same command with --resume goes on from here."),
            soft_wrap=True,
        )
        return _INTERRUPTED
    _print_summary(found.sweep)
    _print_pages(found.sweep, found.pages)
    return 1 if found.sweep.failed or any(page.error for page in found.pages) else 0


def numbers(text: str) -> list[float]:
    """Returns numbers from a text with commas, those without a fraction as whole ones.

    Raises:
        ArgumentError: a piece is no number.

    Example:
        >>> numbers("1,4,0.5")
        [1, 4, 0.5]
    """
    found: list[float] = []
    for piece in _listed(text):
        try:
            found.append(int(piece))
        except ValueError:
            try:
                found.append(float(piece))
            except ValueError:
                raise ArgumentError(
                    f"{piece!r} is no number; give numbers with commas between them, such as 1,4."
                ) from None
    return found


def _listed(text: str) -> list[str]:
    return [piece.strip() for piece in text.split(",")]


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[Executor | None]:
    if address is None:
        yield None
        return
    with dask_executor(address) as executor:
        yield executor


@contextlib.contextmanager
def shown_pages() -> Iterator[PageProgress]:
    """Gives what shows on the standard error how many pages are written, and those that fail."""
    errors = Console(stderr=True)
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with contextlib.ExitStack() as last:
        bar: Progress | None = None

        def show(done: int, total: int, page: Page | None) -> None:
            # Begun with the first call: the trainings before have a bar of their own.
            nonlocal bar
            if bar is None and errors.is_terminal:
                bar = last.enter_context(Progress(*columns, console=errors))
                bar.add_task("", total=total)
            if bar is not None:
                task = bar.task_ids[0]
                bar.update(task, completed=done, description=f"{done} of {total} pages written")
            if page is not None and page.error is not None:
                text = f"gradpath: {page.path} is not written. {page.error}"
                errors.print(Text(plain(text)), soft_wrap=True)

        yield show


def _print_summary(result: SweepResult) -> None:
    rows = [["model", *_complexity_column(result), "error", "seeds", "failed"]]
    members: dict[tuple[str, float | None], list[float]] = {}
    failed: dict[tuple[str, float | None], int] = {}
    for each in result.members:
        key = _of(each.member)
        errors = members.setdefault(key, [])
        if each.status == "finished":
            errors.append(float(each.summary.get("error", math.nan)))
        else:
            failed[key] = failed.get(key, 0) + 1
    for (model, complexity), errors in members.items():
        median = number(statistics.median(errors)) if errors else "-"
        shown = [] if len(rows[0]) == 4 else [number(complexity)]
        count = len(errors) + failed.get((model, complexity), 0)
        rows.append([model, *shown, median, str(count), str(failed.get((model, complexity), 0))])
    printed = console()
    printed.print(aligned(rows), soft_wrap=True)
    printed.print("error: relative L2 error of the solution, median over seeds", soft_wrap=True)


def _complexity_column(result: SweepResult) -> list[str]:
    if all(each.member.complexity is None for each in result.members):
        return []
    from ..experiments.registry import PROBLEMS

    return [PROBLEMS[result.members[0].member.problem].complexity.parameter]


def _of(member: Member) -> tuple[str, float | None]:
    return member.model, member.complexity


def _print_pages(result: SweepResult, pages: Sequence[Page]) -> None:
    printed = console()
    folder = plain(str(result.folder))
    for page in pages:
        if page.kind == "comparison" and page.error is None:
            printed.print(plain(str(page.path)), soft_wrap=True)
    written = sum(page.kind == "report" and page.error is None for page in pages)
    if written:
        printed.print(f"Reports of single runs: {folder}/*/report.html and .pdf", soft_wrap=True)
