from . import instruments as instruments, schedules as schedules
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
    Record as Record,
    Scalar as Scalar,
    ScalarTable as ScalarTable,
)
from .run_writer import RunWriter as RunWriter
from .snapshot import (
    NotMeasurableError as NotMeasurableError,
    Snapshot as Snapshot,
)
from .store import (
    Run as Run,
    runs as runs,
)
