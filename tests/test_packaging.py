"""Editable install, sdist and wheel all give the same package."""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.package import PARTS, ROOT, package_names

pytestmark = pytest.mark.slow

NOT_SOURCE = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs")

# Resolves every lazy name, and sees to it that they come from the environment under test.
IMPORT_EVERYTHING = f"""
import importlib, sys
for package in {package_names()}:
    module = importlib.import_module(package)
    assert module.__file__.startswith(sys.prefix), module.__file__
    for name in getattr(module, "__all__", []):
        getattr(module, name)
"""


@dataclass(frozen=True)
class Build:
    sdist: Path
    wheel: Path
    wheel_of_sdist: Path


def run(*command: str | Path, cwd: Path) -> str:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build(source: Path, *kinds: str) -> list[Path]:
    run(sys.executable, "-m", "build", "--no-isolation", *kinds, source, cwd=source)
    return sorted((source / "dist").iterdir(), key=lambda path: path.suffix)  # .gz before .whl


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder = tmp_path_factory.mktemp("build")
    tree = shutil.copytree(ROOT, folder / "tree", ignore=NOT_SOURCE)
    sdist, wheel = build(tree, "--sdist", "--wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (wheel_of_sdist,) = build(folder / sdist.name.removesuffix(".tar.gz"), "--wheel")
    return Build(sdist, wheel, wheel_of_sdist)


@pytest.fixture(scope="module")
def python_with_wheel(built: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; what it needs is borrowed from this one."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index",
        built.wheel, cwd=folder)  # fmt: skip
    # A folder named by a .pth file is searched, but its own .pth files are not run: the editable
    # install of this environment stays behind.
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(site.strip(), "borrowed.pth").write_text("\n".join(borrowed))
    return python


def files(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_wheel_from_the_tree_and_from_the_sdist_hold_the_same_files(built: Build) -> None:
    assert files(built.wheel) == files(built.wheel_of_sdist)


def test_wheel_holds_stubs_templates_type_marker_and_licence(built: Build) -> None:
    wheel = files(built.wheel)
    kinds = ("*.pyi", "*.jinja", "*.css", "*.js", "*.typ")
    read = [path for part in PARTS for kind in kinds for path in (ROOT / part).rglob(kind)]
    for file in read:
        inside = file.relative_to(ROOT).as_posix()
        assert (inside if inside.startswith("gradpath/") else f"gradpath/{inside}") in wheel
    assert "gradpath/py.typed" in wheel
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


def test_every_public_name_imports_from_the_wheel(python_with_wheel: Path, tmp_path: Path) -> None:
    run(python_with_wheel, "-I", "-c", IMPORT_EVERYTHING, cwd=tmp_path)


def test_command_runs_from_the_wheel(python_with_wheel: Path, tmp_path: Path) -> None:
    assert run(python_with_wheel.parent / "gradpath", "--version", cwd=tmp_path)


def test_editable_install_and_wheel_have_the_same_modules(
    python_with_wheel: Path, tmp_path: Path
) -> None:
    script = ROOT / "tests" / "package.py"
    editable = run(sys.executable, "-I", script, cwd=tmp_path)
    assert run(python_with_wheel, "-I", script, cwd=tmp_path) == editable
