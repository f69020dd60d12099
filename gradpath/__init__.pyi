from . import (
    diagnostics as diagnostics,
    probes as probes,
    reports as reports,
)
from .probes import (
    Probe as Probe,
    Run as Run,
    runs as runs,
)
from .reports import (
    compare as compare,
    report as report,
)

__version__: str
