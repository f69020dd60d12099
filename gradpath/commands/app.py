"""What the commands are called, what they take, and what `--help` says of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import typer

from .. import __version__

app = typer.Typer(
    name="gradpath",
    help="Finds out why a network with several loss terms does not train.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

# What several commands take.
_Run = Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run.")]
_Folder = Annotated[str, typer.Argument(metavar="DIR", help="Searched at any depth.")]
_File = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help=".html or .pdf; by default NAME.html in this folder."
    ),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"gradpath {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _gradpath(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error of yours, too.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


# What stands behind the script is the script's, options included.
@app.command(context_settings={"allow_interspersed_args": False})
def run(
    script: Annotated[str, typer.Argument(help="What you would give to python.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="ARGS")] = None,
    is_module: Annotated[
        bool, typer.Option("-m", help="SCRIPT is the name of a module, as for python -m.")
    ] = False,
    folder: Annotated[
        str | None,
        typer.Option(
            "--run", metavar="DIR", help="Where to record; by default a new folder in runs/."
        ),
    ] = None,
    instruments: Annotated[
        Literal["light", "standard", "full"], typer.Option(help="How much to measure.")
    ] = "standard",
) -> Callable[[], None]:
    """Run a script as python does, and record how its network trains."""
    from .run import Order

    return Order(script, arguments or [], is_module, folder, instruments).prepared()


@app.command()
def runs(
    folder: _Folder = "runs",
    as_json: Annotated[
        bool, typer.Option("--json", help="For machines: a list of objects.")
    ] = False,
) -> None:
    """List the runs in a folder: how far they came, and what became of them."""
    from .runs import print_runs

    print_runs(folder, as_json)


@app.command()
def watch(
    folder: _Run,
    every: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            help="Between two frames; by default 1, and 10 where output is no terminal.",
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show one frame and exit.")] = False,
) -> None:
    """Show a run as it goes on, until it ends."""
    from .watch import watch_run

    watch_run(folder, every, once)


@app.command()
def export(
    folder: _Run,
    to: Annotated[Literal["csv", "parquet", "tensorboard"], typer.Option(help="The format.")],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="A folder that does not exist yet; by default NAME-FORMAT in this folder.",
        ),
    ] = None,
) -> None:
    """Write what a run holds as files for other programs."""
    from .export import export_run

    export_run(folder, to, output)


@app.command()
def report(
    folder: _Run,
    output: _File = None,
) -> None:
    """Write what is wrong with a run, and the evidence, as a file to read."""
    from .report import report_run

    report_run(folder, output)


@app.command()
def compare(
    folder: _Folder,
    output: _File = None,
    rows: Annotated[
        str, typer.Option(metavar="KEY", help="Of run.json: what tells the rows apart.")
    ] = "model",
    columns: Annotated[
        str, typer.Option(metavar="KEY", help="Likewise, the columns.")
    ] = "complexity",
) -> None:
    """Write the runs in a folder side by side, as a file to read."""
    from .compare import compare_runs

    compare_runs(folder, output, rows, columns)


@app.command()
def reproduce(
    problem: Annotated[
        str, typer.Argument(help="Such as helmholtz, or a file such as sweep.toml.")
    ],
    preset: Annotated[
        Literal["quick", "paper"] | None,
        typer.Option(
            help="Minutes for a first look, as without it, or the paper's steps and five seeds."
        ),
    ] = None,
    models: Annotated[
        str | None, typer.Option(metavar="M1,M4+ntk,...", help="Others; docs/models.md.")
    ] = None,
    complexity: Annotated[
        str | None,
        typer.Option(metavar="1,4,...", help="Values of what makes the problem harder."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(metavar="N", help="How many.")] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Of each training.")] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Processes; by default one for each core.")
    ] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Of the scheduler of a Dask cluster.")
    ] = None,
    folder: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="By default runs/PROBLEM-PRESET, runs/FILE."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what is in the folder.")
    ] = False,
) -> None:
    """Train the models of the paper on a problem, compare them, and write reports."""
    from .reproduce import Order, run_reproduction

    status = run_reproduction(
        Order(problem, preset, models, complexity, seeds, steps, workers, dask, folder, resume)
    )
    if status:
        raise typer.Exit(status)


@app.command()
def paper(
    figures: Annotated[Literal["histograms", "eigenvalues"], typer.Argument(help="Which.")],
    preset: Annotated[
        Literal["quick", "paper"], typer.Option(help="As of `gradpath reproduce`.")
    ] = "quick",
    folder: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="By default runs/paper-PRESET.")
    ] = None,
    searched: Annotated[
        list[str] | None,
        typer.Option("--runs", metavar="DIR", help="Where runs may be that need no training."),
    ] = None,
) -> None:
    """Make two figures of the paper: gradient histograms, eigenvalues during training."""
    from .paper import draw_paper_figures

    draw_paper_figures(figures, preset, folder, searched or [])


@app.command()
def doctor() -> None:
    """Show what is installed, what works here and what collides; exit status 1 on a problem."""
    from ..doctor import print_examination

    if not print_examination():
        raise typer.Exit(1)
