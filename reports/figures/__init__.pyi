from .plate import (
    NotMeasuredError as NotMeasuredError,
    Plate as Plate,
)
