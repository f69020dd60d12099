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
from .networks import (
    MLP as MLP,
    GatedMLP as GatedMLP,
    Transform as Transform,
)
from .registry import (
    PROBLEMS as PROBLEMS,
    problem as problem,
)
