from . import schedules as schedules
from . import instruments as instruments
from .bench import ProbeWarning as ProbeWarning
from .errors import StoreError as StoreError
from .probe import Probe as Probe
from .records import (
    Cost as Cost,
    EigenvalueRecord as EigenvalueRecord,
    Event as Event,
    Field as Field,
    Finding as Finding,
    HistogramRecord as HistogramRecord,
    Scalar as Scalar,
)
from .run_writer import RunWriter as RunWriter
from .store import (
    Run as Run,
    runs as runs,
)
