from .annealing import (
    DualBalancing as DualBalancing,
    LearningRateAnnealing as LearningRateAnnealing,
)
from .balancing import (
    GradientNormWeights as GradientNormWeights,
    InverseDirichlet as InverseDirichlet,
    NTKWeights as NTKWeights,
    ReLoBRaLo as ReLoBRaLo,
)
from .curvature import (
    GaussNewton as GaussNewton,
    Hessian as Hessian,
)
from .descent import (
    PredictedChange as PredictedChange,
    predicted_change as predicted_change,
)
from .diagnosis import diagnose as diagnose
from .directions import (
    ConFIG as ConFIG,
    TorchJDAggregator as TorchJDAggregator,
    UPGrad as UPGrad,
)
from .errors import (
    ArgumentError as ArgumentError,
    GradpathError as GradpathError,
    GraphError as GraphError,
    LayoutError as LayoutError,
    MissingPackageError as MissingPackageError,
    NotTwiceDifferentiableError as NotTwiceDifferentiableError,
)
from .findings import (
    Check as Check,
    Diagnosis as Diagnosis,
    Finding as Finding,
)
from .gradients import (
    TermGradients as TermGradients,
    gradient_mismatch as gradient_mismatch,
    term_gradients as term_gradients,
)
from .histogram_distance import (
    DISTANCE_ERROR as DISTANCE_ERROR,
    distances_by_layer as distances_by_layer,
    magnitude_distance as magnitude_distance,
)
from .histograms import (
    GradientHistogram as GradientHistogram,
    histograms_by_layer as histograms_by_layer,
    signed_log_edges as signed_log_edges,
)
from .imbalance import (
    ConflictingPair as ConflictingPair,
    Imbalance as Imbalance,
    alignment as alignment,
    cancellation as cancellation,
    conflict as conflict,
    cosine_matrix as cosine_matrix,
    imbalance as imbalance,
)
from .kernel import (
    KernelBlock as KernelBlock,
    TangentKernel as TangentKernel,
    TangentKernelOperator as TangentKernelOperator,
    tangent_kernel as tangent_kernel,
)
from .lanczos import (
    Eigenvalue as Eigenvalue,
    ExtremeEigenvalues as ExtremeEigenvalues,
    extreme_eigenvalues as extreme_eigenvalues,
)
from .layout import (
    ParameterLayout as ParameterLayout,
    ParameterSlot as ParameterSlot,
)
from .measurements import Measurements as Measurements
from .operators import (
    MatrixOperator as MatrixOperator,
    Preconditioned as Preconditioned,
    SymmetricOperator as SymmetricOperator,
)
from .power import power_iteration as power_iteration
from .recording import ForwardRecording as ForwardRecording
from .rules import (
    AveragedRule as AveragedRule,
    Observation as Observation,
    Proposal as Proposal,
    Weighting as Weighting,
    WeightingRule as WeightingRule,
    WeightingState as WeightingState,
)
from .spectrum import (
    SpectralDensity as SpectralDensity,
    spectral_density as spectral_density,
)
from .stability import (
    OptimizerStability as OptimizerStability,
    adam_limit as adam_limit,
    momentum_limit as momentum_limit,
    optimizer_stability as optimizer_stability,
)
from .statistics import (
    GradientStatistics as GradientStatistics,
    LayerStatistics as LayerStatistics,
    MagnitudeRatios as MagnitudeRatios,
    gradient_statistics as gradient_statistics,
)
from .terms import (
    Term as Term,
    Terms as Terms,
    find_terms as find_terms,
)
from .trace import (
    TraceEstimate as TraceEstimate,
    trace as trace,
)
from .weighting import (
    PRESETS as PRESETS,
    Preset as Preset,
    weighting as weighting,
)
