from .costs import probing_cost as probing_cost
from .curvature import stiffness as stiffness
from .dots import compared as compared
from .fields import solution_fields as solution_fields
from .flow import (
    profiles as profiles,
    streamlines as streamlines,
)
from .gradients import gradient_histograms as gradient_histograms
from .grids import (
    histogram_grid as histogram_grid,
    stiffness_grid as stiffness_grid,
)
from .growth import (
    error_against_sharpness as error_against_sharpness,
    scaling as scaling,
)
from .over_time import histograms_over_time as histograms_over_time
from .plain_pinn import plain_pinn_diagnosis as plain_pinn_diagnosis
from .plate import (
    NotMeasuredError as NotMeasuredError,
    Plate as Plate,
)
from .pulls import (
    alignment as alignment,
    predicted_change as predicted_change,
)
from .series import (
    imbalance as imbalance,
    losses as losses,
    update_sizes as update_sizes,
    weights as weights,
)
from .spectra import (
    sorted_spectrum as sorted_spectrum,
    spectral_density as spectral_density,
)
