"""A session is started when a program has imported PyTorch, and ended with it; nothing else shows.

Each case is a process that launches a program of its own. PyTorch is a stand-in.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

# Runs the program beside it, and says on stderr what became of the session.
LAUNCHER = """
import os, sys
from gradpath.probes.launch import launch

class Session:
    summary_line = "summary"
    def finish(self):
        print("finished", file=sys.__stderr__)
    def fail(self, error):
        print(f"failed by {error!r}", file=sys.__stderr__)
    def summary(self):
        return self.summary_line

def start():
    import torch
    print(f"started with {torch.COMPLETE}", file=sys.__stderr__)
    return Session()

def program():
    exec(compile(open("program.py").read(), "program.py", "exec"), {"__name__": "program"})

launch(program, start, name="program.py")
"""

TORCH = "import os\nBEFORE = os.environ.get('X')\nimport torch.nn\nCOMPLETE = True\n"

NEVER = ("gradpath: program.py never imported torch, so nothing was recorded.",)
WHOLE = ("started with True", "finished", "gradpath: summary")


@dataclass(frozen=True)
class Case:
    """A program, and the lines that it leaves on stderr."""

    program: str
    stderr: Sequence[str]
    status: int = 0
    torch: str = TORCH
    launcher: str = LAUNCHER
    stdout: str = ""


def launcher_with(before: str, after: str) -> str:
    assert before in LAUNCHER
    return LAUNCHER.replace(before, after)


CASES = {
    "imported": Case("import torch", WHOLE),
    "imported at the start": Case("", WHOLE, launcher=f"import torch\n{LAUNCHER}"),
    "never imported": Case("print(1)", NEVER, stdout="1\n"),
    "environment set before": Case(
        "import os, sys\nassert not {'torch', 'numpy', 'pandas'} & set(sys.modules)\n"
        "os.environ['X'] = '5'\nimport torch\nprint(torch.BEFORE)",
        WHOLE,
        stdout="5\n",
    ),
    "only looked for": Case(
        "from importlib.util import find_spec\nprint(find_spec('torch').name)",
        NEVER,
        stdout="torch\n",
    ),
    "looked for, then imported": Case(
        "from importlib.util import find_spec\nfind_spec('torch')\nimport torch", WHOLE
    ),
    "imported twice": Case("import importlib, torch.nn, torch\nimportlib.reload(torch)", WHOLE),
    "imported by the second try": Case(
        "try:\n    import torch\nexcept OSError:\n    open('there', 'w')\n    import torch",
        WHOLE,
        torch=f"import os\nif not os.path.exists('there'):\n    raise OSError\n{TORCH}",
    ),
    "imported in a thread": Case(
        "import threading\nthread = threading.Thread(target=__import__, args=('torch',))\n"
        "thread.start()\nthread.join()",
        WHOLE,
    ),
    "broken torch": Case(
        "try:\n    import torch\nexcept ImportError as error:\n    print(error)",
        NEVER,
        torch="import nowhere",
        stdout="No module named 'nowhere'\n",
    ),
    "exit with success": Case("import sys, torch; sys.exit(0)", WHOLE),
    "exit with a status": Case(
        "import sys, torch; sys.exit(3)",
        ("started with True", "failed by SystemExit(3)", "gradpath: summary"),
        status=3,
    ),
    "session after threads and exit handlers": Case(
        "import atexit, sys, threading, time, torch\n"
        "def say(text):\n    time.sleep(0.1)\n    print(text, file=sys.stderr)\n"
        "atexit.register(say, 'handler')\n"
        "threading.Thread(target=say, args=('thread',)).start()",
        ("started with True", "thread", "handler", *WHOLE[1:]),
    ),
    "session before finalizers": Case(
        "import sys, weakref, torch\nclass Held: ...\ntorch.held = Held()\n"
        "weakref.finalize(torch.held, print, 'lock released', file=sys.stderr)",
        (*WHOLE, "lock released"),
    ),
    "forked process that imports": Case(
        "import os\nif os.fork() == 0:\n    import torch\n    raise SystemExit(5)\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]))",
        NEVER,
        stdout="5\n",
    ),
    "process forked later": Case(
        "import os, torch\nif os.fork() == 0:\n    raise SystemExit(5)\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]))",
        WHOLE,
        stdout="5\n",
    ),
    "stderr put elsewhere": Case(
        "import io, sys, torch\nsys.stderr = io.StringIO()\nsys.stdout = io.StringIO()", WHOLE
    ),
    "stderr closed": Case("import sys, torch\nsys.stderr.close()", WHOLE[:1]),
    "no summary": Case("import torch", WHOLE[:2], launcher=launcher_with('= "summary"', "= None")),
    "start fails": Case(
        "import torch\nprint('goes on')",
        ("gradpath: program.py runs on unrecorded, the probe could not start: OSError: no room",),
        launcher=launcher_with("import torch", "raise OSError('no\\nroom')"),
        stdout="goes on\n",
    ),
    "finish fails": Case(
        "import torch",
        (
            "started with True",
            "gradpath: The recording of program.py did not end well: OSError: no room",
        ),
        launcher=launcher_with(
            'print("finished", file=sys.__stderr__)', "raise OSError('no room')"
        ),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_session_of(case: Case, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(case.torch)
    (tmp_path / "torch" / "nn.py").touch()
    (tmp_path / "launcher.py").write_text(case.launcher)
    (tmp_path / "program.py").write_text(case.program)
    result = subprocess.run(
        [sys.executable, "launcher.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert tuple(result.stderr.splitlines()) == tuple(case.stderr)
    assert (result.stdout, result.returncode) == (case.stdout, case.status)
