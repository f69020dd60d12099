from .dask_cluster import dask_executor as dask_executor
from .derivatives import (
    Field as Field,
    partials as partials,
)
from .domains import (
    Batch as Batch,
    Box as Box,
    Region as Region,
    Sampler as Sampler,
)
from .formulation import (
    Complexity as Complexity,
    Problem as Problem,
    Published as Published,
)
from .models import (
    MODELS as MODELS,
    Model as Model,
    model as model,
)
from .networks import (
    MLP as MLP,
    GatedMLP as GatedMLP,
    Transform as Transform,
)
from .registry import (
    PROBLEMS as PROBLEMS,
    problem as problem,
)
from .reproduction import (
    PRESETS as PRESETS,
    Page as Page,
    Reproduction as Reproduction,
    reproduce as reproduce,
    reproduction as reproduction,
    write_pages as write_pages,
)
from .slots import SlotExecutor as SlotExecutor
from .summary import Summary as Summary
from .sweep_file import read_sweep as read_sweep
from .sweeps import (
    Member as Member,
    MemberResult as MemberResult,
    Sweep as Sweep,
    SweepProgress as SweepProgress,
    SweepResult as SweepResult,
    SweepState as SweepState,
    run_sweep as run_sweep,
    sweep_state as sweep_state,
)
from .training import train as train
