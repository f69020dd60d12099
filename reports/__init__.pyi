from . import figures as figures
from .reporting import (
    compare as compare,
    report as report,
)
from .writing import ReportError as ReportError
