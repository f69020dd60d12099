from . import (
    diagnostics as diagnostics,
    probes as probes,
)
from .probes import (
    Probe as Probe,
    Run as Run,
    runs as runs,
)

__version__: str
