"""The package as the tests see it: where its parts lie, and which modules it has.

Run as a script, it prints the modules that the Python running it finds, one a line.
"""

import importlib
import pkgutil
from pathlib import Path

ROOT = Path(__file__).parent.parent

# From the mathematics to the front door: a part may import those before it.
PARTS = ("diagnostics", "probes", "reports", "experiments", "gradpath")

INTEGRATIONS = "gradpath.probes.integrations"


def package_names() -> list[str]:
    """The import names of the front door and the four parts."""
    return ["gradpath", *(f"gradpath.{part}" for part in PARTS if part != "gradpath")]


def module_names() -> list[str]:
    """The import name of every module, without `__main__`, which runs when imported.

    Nor are the integrations there, each of which imports a framework. Each part is walked on its
    own: in an editable install the front door's folder does not hold the others.
    """
    names = set(package_names())
    for package in package_names():
        path = importlib.import_module(package).__path__
        names.update(module.name for module in pkgutil.walk_packages(path, f"{package}."))
    integrations = {name for name in names if name.startswith(f"{INTEGRATIONS}.")}
    return sorted(names - integrations - {"gradpath.__main__"})


if __name__ == "__main__":
    print("\n".join(module_names()))
