from .comparing import (
    Comparison as Comparison,
    compare_runs as compare_runs,
)
from .members import Member as Member
from .quantities import (
    QUANTITIES as QUANTITIES,
    Quantity as Quantity,
    quantity_of as quantity_of,
)
from .statistics import (
    PairedRatio as PairedRatio,
    PowerLaw as PowerLaw,
    Spread as Spread,
    paired_ratio as paired_ratio,
    power_law as power_law,
    ranks as ranks,
    spread as spread,
)
