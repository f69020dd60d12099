"""`gradpath run SCRIPT` is `python SCRIPT`, and a session beside it; both run as real processes.

PyTorch and the session are stand-ins: what is tested is the launching.
"""

import os
import re
import signal
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gradpath import cli
from gradpath.commands.run import Order, plain_order

PYTHON, GRADPATH = sys.executable, str(Path(sysconfig.get_path("scripts"), "gradpath"))

TORCH = 'import os\nTHREADS = os.environ.get("OMP_NUM_THREADS")\n'

# Imported by every Python that has its folder on PYTHONPATH.
STAND_IN_FOR_THE_PROBE = """
import sys, types

class Session:
    def __init__(self, *given):
        self.end, self.given = "not ended", given
    def finish(self):
        self.end = "finished"
    def fail(self, error):
        self.end = f"failed by {error!r}"
    def summary(self):
        return f"{self.end} {self.given}"

def start_session(folder, *, instruments, script):
    return Session(folder, instruments, script)

module = types.ModuleType("gradpath.probes.zero_change")
module.start_session = start_session
sys.modules[module.__name__] = module
"""


@dataclass(frozen=True)
class Case:
    """A program and how it is run; `command` is what stands after `python` and `gradpath run`."""

    program: str
    command: Sequence[str] = ("train.py", "--lr", "1e-3", "--run", "x", "--", "-h")
    interpreter: Sequence[str] = ()  # options of python
    stdin: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    status: int = 0


CASES = {
    "what it is told": Case("""
import builtins, os, sys
print(sys.argv, sys.path[0], os.getcwd(), sys.flags, __name__, __file__, __package__, __spec__)
print(type(__loader__), __loader__.name, __loader__.path, __builtins__ is builtins, __doc__)
print(sys.modules["__main__"].__dict__ is globals(), sys.excepthook, sorted(globals()))
"""),
    "docstring": Case('"""A script."""\nprint(__doc__)'),
    "annotations of its own": Case("def f(x: unknown): ...", status=1),
    "path that is not plain": Case(
        "import sys, help_of_train; print(sys.path[0], __file__, sys.argv)",
        command=("./../here/./train.py",),
        files={"help_of_train.py": ""},
    ),
    "folder of its own": Case(
        "",
        command=("sub/train.py",),
        files={
            "sub/train.py": "import sys, beside; print(sys.path[0])",
            "sub/beside.py": "print(__name__)",
        },
    ),
    "no output buffer": Case("import sys; print(sys.stdout.write_through)", interpreter=["-u"]),
    "exit with a status": Case("import sys; sys.exit(3)", status=3),
    "exit with a text": Case("import sys; sys.exit('no data')", status=1),
    "exit with nothing": Case("import sys; sys.exit()"),
    "exit at once": Case("import os; os._exit(4)", status=4),
    "exception": Case("def f(x):\n    return 1 / x\n\nf(0)", status=1),
    "exception with a cause": Case(
        "try:\n    {}['lr']\nexcept KeyError as error:\n    raise ValueError('no lr') from error",
        status=1,
    ),
    "exception in an exception": Case("try:\n    1 / 0\nexcept ValueError:\n    pass", status=1),
    "exceptions in a group": Case(
        "raise ExceptionGroup('all', [ValueError(1), TypeError(2)])", status=1
    ),
    "error of ours": Case(
        "from gradpath.diagnostics.errors import LayoutError\nraise LayoutError('x')", status=1
    ),
    "syntax error": Case("x = = 1", status=1),
    "syntax error in what it imports": Case(
        "import wrong", files={"wrong.py": "x = = 1"}, status=1
    ),
    "no such import": Case("import nowhere", status=1),
    "broken torch": Case(
        "import torch",
        files={"torch/__init__.py": "raise OSError('libcudart.so')"},
        status=1,
    ),
    "broken torch that is caught": Case(
        "import traceback\ntry:\n    import torch\nexcept ImportError:\n    traceback.print_exc()",
        files={"torch/__init__.py": "import nowhere"},
    ),
    "hook of its own": Case(
        "import sys, traceback\n"
        "def hook(kind, error, tb):\n"
        "    print('mine', kind, error, traceback.extract_tb(tb), error.__traceback__ is tb)\n"
        "sys.excepthook = hook\n"
        "raise ValueError(1)",
        status=1,
    ),
    "hook that fails": Case(
        "import sys\n"
        "def hook(*_):\n"
        "    raise TypeError('in the hook')\n"
        "sys.excepthook = hook\n"
        "raise ValueError(1)",
        status=1,
    ),
    "hook that exits": Case(
        "import sys\nsys.excepthook = lambda *_: sys.exit(7)\nraise ValueError(1)", status=7
    ),
    "what is left of an exception": Case(
        "import atexit, sys, traceback\n"
        "def look():\n"
        "    print(sys.last_type, sys.last_value, traceback.extract_tb(sys.last_traceback))\n"
        "    print(sys.excepthook)\n"
        "atexit.register(look)\n"
        "raise ValueError(1)",
        status=1,
    ),
    "interrupted": Case(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)",
        status=-signal.SIGINT,
    ),
    "terminated": Case(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(60)",
        status=-signal.SIGTERM,
    ),
    "thread that outlives it": Case(
        "import threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()"
    ),
    "exception in a thread": Case(
        "import threading\nthread = threading.Thread(target=lambda: 1 / 0)\n"
        "thread.start()\nthread.join()"
    ),
    "standard input": Case("import sys; print(sys.stdin.read(), input)", stdin="a\nb"),
    "classes that pickle": Case(
        "import pickle\nclass Net: ...\nprint(type(pickle.loads(pickle.dumps(Net()))) is Net)"
    ),
    "spawned process": Case("""
import multiprocessing, os, sys

class Net:
    pass

def work(net):
    import torch
    print(type(net), "gradpath" in sys.modules, sys.argv, torch.THREADS, flush=True)

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "3"
    process = multiprocessing.get_context("spawn").Process(target=work, args=(Net(),))
    process.start()
    process.join()
    print(process.exitcode)
"""),
    "forked process": Case("""
import os, sys
import torch
if os.fork() == 0:
    print("child", flush=True)
    raise ValueError("in the child")
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""),
    "process of its own": Case("""
import subprocess, sys
print(subprocess.check_output([sys.executable, "-c", "import torch, sys; print('gradpath' in sys.modules)"]))
"""),  # noqa: E501
    "warnings as errors": Case(
        "import warnings; warnings.warn('x')", interpreter=["-W", "error"], status=1
    ),
    "development mode": Case(
        "import sys; print(sys.flags, sys.warnoptions)", interpreter=["-Xdev"]
    ),
    "safe path": Case("import sys; print(sys.path[0], sys.flags)", interpreter=["-P"]),
    "optimised": Case("assert False\nprint(__debug__)", interpreter=["-O"]),
    "nothing imported before it": Case("""
import sys
assert not {"torch", "numpy", "pandas", "typer", "pydantic", "rich"} & set(sys.modules)
import os
os.environ["OMP_NUM_THREADS"] = "7"
import torch
print(torch.THREADS)
"""),
    "torch that is only looked for": Case(
        "import importlib.util, sys\n"
        "print(importlib.util.find_spec('torch'), 'torch' in sys.modules)\n"
    ),
    "torch that is looked at": Case(
        "import torch\n"
        "spec = torch.__spec__\n"
        "print(spec, type(spec), torch.__loader__, sorted(vars(spec)))"
    ),
    "module": Case(
        "print(__name__, __spec__.name, __package__); import sys; print(sys.argv, sys.path[0])",
        command=("-m", "train", "-m", "--run", "x"),
    ),
    "module of a package": Case(
        "",
        command=("-m", "package.train"),
        files={
            "package/__init__.py": "print('package')",
            "package/train.py": "from . import beside; raise ValueError(beside.__name__)",
            "package/beside.py": "",
        },
        status=1,
    ),
    "package": Case(
        "",
        command=("-m", "package", "x"),
        files={"package/__init__.py": "", "package/__main__.py": "import sys; print(sys.argv)"},
    ),
    "folder without a program": Case("", command=("empty",), files={"empty/x": ""}, status=1),
    "no such module": Case("", command=("-m", "nowhere"), status=1),
    "module that does not compile": Case("x = = 1", command=("-m", "train"), status=1),
    "exception in a module": Case("1 / 0", command=("-m", "train"), status=1),
    "folder": Case(
        "",
        command=("folder", "x"),
        files={"folder/__main__.py": "import sys; print(sys.argv, sys.path[0], __file__); 1 / 0"},
        status=1,
    ),
    "archive": Case("import sys; print(sys.argv, sys.path[0], __file__)", command=("train.zip",)),
}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The working folder of the programs; the stand-ins are beside it."""
    (tmp_path / "stand-ins" / "torch").mkdir(parents=True)
    (tmp_path / "stand-ins" / "torch" / "__init__.py").write_text(TORCH)
    (tmp_path / "stand-ins" / "sitecustomize.py").write_text(STAND_IN_FOR_THE_PROBE)
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def lay(case: Case, here: Path) -> None:
    for name, text in {"train.py": case.program, **case.files}.items():
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with zipfile.ZipFile(here / "train.zip", "w") as archive:
        archive.writestr("__main__.py", case.program)


def run(
    command: Sequence[str], here: Path, stdin: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    found = {"PYTHONPATH": str(here.parent / "stand-ins"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command,
        cwd=here,
        env=os.environ | found | environment,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def comparable(output: str) -> str:
    """Without our own lines, and without where objects lie in memory."""
    lines = output.splitlines(keepends=True)
    others = "".join(line for line in lines if not line.startswith("gradpath: "))
    return re.sub("at 0x[0-9a-f]+", "at ...", others)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_program_runs_as_it_does_in_python(case: Case, here: Path) -> None:
    lay(case, here)
    plain = run([PYTHON, *case.interpreter, *case.command], here, case.stdin)
    assert plain.returncode == case.status, plain.stderr
    commands = [[PYTHON, *case.interpreter, "-m", "gradpath"]]
    if not case.interpreter:
        commands.append([GRADPATH])
    for command in commands:
        probed = run([*command, "run", *case.command], here, case.stdin)
        assert comparable(probed.stdout) == comparable(plain.stdout)
        assert comparable(probed.stderr) == comparable(plain.stderr)
        assert probed.returncode == plain.returncode


@pytest.mark.parametrize(
    ("options", "instruments"),
    [
        ([], "standard"),
        (["--instruments", "full"], "full"),
        (["--instruments=light", "--"], "light"),
    ],
)
def test_the_session_is_told_what_was_asked_for(
    options: list[str], instruments: str, here: Path
) -> None:
    (here / "train.py").write_text("import os, torch\nos.chdir('/')")
    result = run([GRADPATH, "run", *options, "train.py", "--instruments", "x"], here)
    folder = rf"{re.escape(str(here))}/runs/train-\d{{8}}-\d{{6}}-\d+"
    told = rf"gradpath: finished \('{folder}', '{instruments}', 'train.py'\)\n"
    assert re.fullmatch(told, result.stderr)
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["a.b.py"], "a.b"),
        (["-m", "package.train"], "train"),
        (["folder/"], "folder"),
    ],
)
def test_a_run_is_named_after_the_program(command: list[str], name: str, here: Path) -> None:
    for path in ("a.b.py", "package/train.py", "folder/__main__.py"):
        (here / path).parent.mkdir(exist_ok=True)
        (here / path).write_text("import torch")
    result = run([GRADPATH, "run", *command], here)
    assert f"'{here}/runs/{name}-" in result.stderr


def test_a_run_goes_where_it_was_asked_to(here: Path) -> None:
    (here / "train.py").write_text("import torch")
    (here / "empty").mkdir()
    for folder in ("new/run", "empty"):
        result = run([GRADPATH, "run", "--run", folder, "train.py"], here)
        assert result.stderr == f"gradpath: finished ('{here}/{folder}', 'standard', 'train.py')\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.py"], "nowhere.py cannot be run (No such file or directory): give a Python "
         "file, or -m and a module."),
        (["--run", "used", "train.py"], "There is something at used already: give --run a new "
         "folder."),
        (["--run", "train.py", "train.py"], "There is something at train.py already: give --run a "
         "new folder."),
        ([], "Missing argument 'script'. See `gradpath run --help`."),
        (["--run"], "Option '--run' requires an argument. See `gradpath --help`."),
        (["--ruin", "x", "train.py"], "No such option: --ruin (Possible options: --run). See "
         "`gradpath run --help`."),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_the_program_does_not_run(
    arguments: list[str], message: str, here: Path
) -> None:
    (here / "train.py").write_text("print('ran')")
    (here / "used").mkdir()
    (here / "used" / "file").touch()
    result = run([GRADPATH, "run", *arguments], here)
    assert (result.stdout, result.stderr) == ("", f"gradpath: {message}\n")
    assert result.returncode == 2


def test_help_names_the_options() -> None:
    result = subprocess.run([GRADPATH, "run", "-h"], capture_output=True, text=True, check=True)
    for text in ("SCRIPT", "--run", "--instruments", "light", "-m"):
        assert text.lower() in result.stdout.lower()


@pytest.mark.parametrize(
    "arguments",
    [
        "train.py",
        "train.py --run x -m -- -h --help",
        "--run x train.py -- y",
        "--run=x --instruments light train.py --instruments",
        "-m package.train -m --lr 1",
        "--run x -m package.train --run y",
        "-- -train.py -- x",
        "--run --run train.py",
    ],
)
def test_both_parsers_read_the_same_order(arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Order] = []

    def prepared(order: Order) -> Callable[[], None]:
        found.append(order)
        return lambda: None

    monkeypatch.setattr(Order, "prepared", prepared)
    assert cli.main(["run", *arguments.split()]) == 0
    assert cli.main(["--debug", "run", *arguments.split()]) == 0
    assert found[0] == found[1]
    assert found[0] == plain_order(arguments.split())


def test_all_of_several_processes_measure_though_one_writes(here: Path) -> None:
    (here / "train.py").write_text("import torch, sys; sys.exit(3)")
    (here / "x").mkdir()
    (here / "x" / "run.json").write_text("of the first one")
    for rank in "12":
        result = run([GRADPATH, "run", "--run", "x", "train.py"], here, RANK=rank)
        assert result.stderr.startswith("gradpath: failed by SystemExit(3)")
        assert result.returncode == 3


def test_it_works_under_torchrun(here: Path) -> None:
    line = "f'{sys.argv} {os.environ[\"RANK\"]}\\n'.encode()"  # in one piece, of two processes
    (here / "train.py").write_text(f"import os, sys; os.write(1, {line})")
    # Without the two dashes, torchrun takes --run for an abbreviation of an option of its own.
    torchrun = [
        PYTHON,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "--",
    ]
    result = run([*torchrun, "gradpath", "run", "train.py", "--run", "x"], here, PYTHONPATH="")
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.splitlines()) == [
        f"['train.py', '--run', 'x'] {rank}" for rank in (0, 1)
    ]
    assert result.stderr.count("train.py never imported torch, so nothing was recorded.") == 2
