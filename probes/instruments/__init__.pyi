from .alignment import Alignment as Alignment
from .base import Instrument as Instrument
from .descent import Descent as Descent
from .exact_spectrum import ExactSpectrum as ExactSpectrum
from .fields import Fields as Fields
from .gradient_histograms import GradientHistograms as GradientHistograms
from .gradient_statistics import GradientStatistics as GradientStatistics
from .imbalance import Imbalance as Imbalance
from .losses import Losses as Losses
from .presets import (
    full as full,
    light as light,
    standard as standard,
)
from .spectrum import Spectrum as Spectrum
from .stability import Stability as Stability
from .stiffness import Stiffness as Stiffness
from .tangent_kernel import TangentKernel as TangentKernel
from .updates import Updates as Updates
