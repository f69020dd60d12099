from .jets import Jet as Jet
from .partials import (
    Field as Field,
    partials as partials,
)
from .truncation import Truncation as Truncation
