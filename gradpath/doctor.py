"""What is installed, what works here, and what collides: the checks of `gradpath doctor`.

A check tries the thing itself where that is quick (a device is asked for, a small library is
compiled), so that "ok" means that it worked, not that a version number looked right.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse
from urllib.request import url2pathname

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import __version__

COLOURS = {"ok": "green", "note": "yellow", "problem": "bold red"}

# Distributions on PyPI that install a top-level folder named like one of our parts.
NAMESAKES = ("diagnostics", "probes", "reports")

# What torch.compile's kernels for the CPU include, and what they are linked with.
KERNEL = """\
#include <Python.h>
#include <omp.h>
int threads() { return omp_get_max_threads(); }
"""


@dataclass(frozen=True)
class Check:
    """One line of the examination."""

    subject: str
    state: Literal["ok", "note", "problem"]
    detail: str  # what was found and, where it is not ok, what to do about it


def print_examination() -> bool:
    """Prints every check as it is made; returns whether none of them is a problem."""
    console = Console(highlight=False)
    healthy = True
    for title, checks in (
        ("Installed", installed()),
        ("Works here", working()),
        ("Collides", colliding()),
    ):
        console.print(Text(title, style="bold"))
        for check in checks:
            row = Table.grid(padding=(0, 2))
            row.add_column(width=max(map(len, COLOURS)))
            row.add_column(width=14)
            row.add_column(overflow="fold")
            state = Text(check.state, style=COLOURS[check.state])
            row.add_row(state, Text(check.subject), Text(check.detail))
            console.print(row)
            healthy = healthy and check.state != "problem"
    return healthy


# What the optional packages are for, by the extra that brings them.
_EXTRAS = {
    "directions": "weighting rules that combine gradients",
    "parquet": "gradpath export --to parquet",
    "tensorboard": "gradpath export --to tensorboard",
    "dask": "sweeps on a Dask cluster",
    "soap": "the optimizer SOAP in reference experiments",
    "deepxde": "the callback for DeepXDE",
    "huggingface": "the callback for Hugging Face's Trainer",
    "lightning": "the callback for Lightning",
    "pina": "the callback for PINA",
    "mlflow": "copies of records in MLflow",
    "trackio": "copies of records in trackio",
    "wandb": "copies of records in Weights & Biases",
}


def installed() -> Iterator[Check]:
    """Yields Python, gradpath and what gradpath needs, with versions held against our bounds."""
    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    yield Check("gradpath", "ok", f"{__version__} in {Path(__file__).parent}")
    for requirement in _requirements():
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None:
            detail = f"missing: python -m pip install '{requirement.name}{requirement.specifier}'"
            yield Check(requirement.name, "problem", detail)
        elif not requirement.specifier.contains(version, prereleases=True):
            detail = f"{version} is not {requirement.specifier}, which gradpath was tested with"
            yield Check(requirement.name, "problem", detail)
        else:
            yield Check(requirement.name, "ok", version)


def working() -> Iterator[Check]:
    """Yields what a computation can use: PyTorch, devices, a compiler, the optional packages."""
    yield from _torch()
    yield _compiler()
    for requirement in _requirements():
        marker = str(requirement.marker or "")
        extra = next((extra for extra in _EXTRAS if f'"{extra}"' in marker), None)
        if extra is None:
            continue
        version = _version(requirement.name)
        if version is None:
            detail = f"not installed; wanted by {_EXTRAS[extra]}: "
            detail += f"python -m pip install 'gradpath[{extra}]'"
            yield Check(requirement.name, "note", detail)
        else:
            yield Check(requirement.name, "ok", version)


def colliding() -> Iterator[Check]:
    """Yields what is known to get in the way of gradpath, or looks as if it did."""
    found, wanted = Path(__file__).parent.resolve(), _home()
    if wanted is None:
        detail = f"imported from {found} without being installed: python -m pip install -e ."
        yield Check("gradpath", "problem", detail)
    elif found != wanted:
        detail = f"imported from {found}, but installed in {wanted}: leave that folder, "
        detail += "or take it off PYTHONPATH"
        yield Check("gradpath", "problem", detail)
    else:
        yield Check("gradpath", "ok", "imported from where it is installed")
    if _version("functorch"):
        detail = "an empty package that wants torch < 2.1; torch.func has long replaced it: "
        detail += "python -m pip uninstall functorch"
        yield Check("functorch", "problem", detail)
    for name in NAMESAKES:
        version = _version(name)
        if version:
            detail = f"{version} from PyPI is another project's; harmless, since ours is "
            detail += f"gradpath.{name}"
            yield Check(name, "note", detail)


def _torch() -> Iterator[Check]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of its own is missing
        yield Check("torch", "problem", f"does not import: {error}")
        return
    yield Check("cpu", "ok", f"{torch.get_num_threads()} threads")
    for index in range(torch.cuda.device_count()):
        yield Check(f"cuda:{index}", "ok", torch.cuda.get_device_name(index))
    for index in range(torch.xpu.device_count()):
        yield Check(f"xpu:{index}", "ok", torch.xpu.get_device_name(index))
    if torch.backends.mps.is_available():
        yield Check("mps", "note", "works, but has no float64: curvature is measured in float32")


def _compiler() -> Check:
    """Whether torch.compile finds what it needs for kernels on the CPU."""
    name = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    path = shutil.which(name)
    if path is None:
        detail = f"no C++ compiler {name!r}, so torch.compile fails and nothing is compiled: "
        detail += "install one (Debian: g++), or name it in CXX"
        return Check("c++ compiler", "note", detail)
    if sys.platform != "linux":  # the switches for OpenMP differ, and torch brings its own library
        return Check("c++ compiler", "ok", f"{path} (found, not tried)")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.cpp")
        source.write_text(KERNEL)
        command = [path, "-shared", "-fPIC", "-fopenmp", f"-I{sysconfig.get_path('include')}"]
        command += [str(source), "-o", str(Path(folder, "kernel.so"))]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        errors = [line for line in result.stderr.splitlines() if "error" in line.lower()]
        detail = f"{path} cannot build what torch.compile needs: {''.join(errors[:1])} "
        detail += "(Debian: packages g++, libgomp1 and python3-dev)"
        return Check("c++ compiler", "note", detail)
    return Check("c++ compiler", "ok", f"{path} builds kernels for torch.compile")


def _home() -> Path | None:
    """The folder that an import of gradpath should come from, None if it is not installed."""
    try:
        distribution = metadata.distribution("gradpath")
    except metadata.PackageNotFoundError:
        return None
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return Path(url2pathname(urlparse(origin["url"]).path), "gradpath").resolve()
    return Path(str(distribution.locate_file("gradpath"))).resolve()


def _requirements() -> list[Requirement]:
    try:
        return [Requirement(line) for line in metadata.requires("gradpath") or []]
    except metadata.PackageNotFoundError:
        return []


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
