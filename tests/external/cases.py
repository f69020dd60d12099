"""The scripts of this folder, and what a probe must find in each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

SCRIPT = ("{python}",)
TORCHRUN = (*SCRIPT, *"-m torch.distributed.run --standalone --nproc-per-node=2".split())


class Order(Enum):
    """Which of the two runs of a script is over before the other begins.

    They share the compiled code that PyTorch keeps on disk, which stays as the first one made it.
    """

    TOGETHER = "together"
    PLAIN_FIRST = "plain first"
    PROBED_FIRST = "probed first"


@dataclass(frozen=True)
class Case:
    """A training script in the manner of its ecosystem.

    Attributes:
        shows: what it trains and how, in a few words.
        package: that it is written for.
        weights: the terms, by part where there are several, and their weights at the first step;
            None where a weight moves or there is none.
        curvature: terms whose spectrum is measured at both ends; all of `weights` if left out.
        missing: a part of the reason that the run must give for what is not recorded.
        note: what a reader of the table should know.
        tolerance: of the self-check.
        gradients: whether they are known by term; else that of the total alone.
        converges: whether the ends of the spectrum are known to the tolerance asked for.
        command: how the script is started.
        script: its name; that of the case if left out.
        arguments: that it is given.
        order: of its two runs.
    """

    shows: str
    package: str
    weights: Mapping[str, float | None]
    curvature: tuple[str, ...] | None = None
    missing: str = ""
    note: str = ""
    tolerance: float = 1e-5
    gradients: bool = True
    converges: bool = True
    command: tuple[str, ...] = field(default=SCRIPT)
    script: str = ""
    arguments: tuple[str, ...] = ()
    order: Order = Order.TOGETHER


POSITIONS = "terms are named by their position; the callback names them after the problem"

CASES = {
    "deepxde_poisson": Case(
        "Poisson's equation, Adam", "DeepXDE", {"losses[0]": 1.0, "losses[1]": 50.0}, note=POSITIONS
    ),
    "deepxde_burgers": Case(
        "Burgers' equation, Adam then L-BFGS",
        "DeepXDE",
        {"losses[0]": 1.0, "losses[1]": 10.0, "losses[2]": 100.0},
        note=POSITIONS,
    ),
    "deepxde_system": Case(
        "a system of two equations",
        "DeepXDE",
        {"losses[0]": 1.0, "losses[1]": 1.0, "losses[2]": 1.0, "losses[3]": 1.0},
        note=POSITIONS,
    ),
    "deepxde_inverse": Case(
        "an inverse problem with a trained coefficient",
        "DeepXDE",
        {"losses[0]": 1.0, "losses[1]": 1.0, "losses[2]": 20.0},
        note=POSITIONS,
    ),
    "lightning_pinn": Case(
        "a PINN, gradients clipped", "lightning", {"loss_pde": 1.0, "loss_bc": 10.0}
    ),
    "lightning_two_heads": Case(
        "a classifier with two heads and dropout",
        "lightning",
        {"shape": 1.0, "colour": 0.5},
    ),
    "pina_poisson": Case(
        "Poisson's equation",
        "pina-mathlab",
        {
            "condition_scalar_loss": 1.0,
            "condition_scalar_loss#2": 10.0,
            "condition_scalar_loss#3": 20.0,
        },
        note="conditions are told apart by their order; the callback has their names",
    ),
    "physicsnemo_poisson": Case(
        "Poisson's equation, the residual of a symbolic equation",
        "nvidia-physicsnemo",
        {"loss_pde": 1.0, "loss_bc": 10.0},
    ),
    "neurodiffeq_ode": Case(
        "an ordinary differential equation",
        "neurodiffeq",
        {"self.loss_fn(residuals, funcs, batch)": 1.0},
        note="one term: conditions hold by construction, residuals are joined before the loss",
    ),
    "huggingface_trainer": Case(
        "a language model with Trainer, gradients accumulated and clipped",
        "transformers",
        {"loss": None},
        note="one term, a sum over tokens that Trainer divides by their number",
    ),
    "accelerate_loop": Case(
        "a loop that accumulates gradients", "accelerate", {"mse": 1.0, "size": 0.1}
    ),
    "torchjd_loop": Case(
        "two losses, gradients combined by UPGrad",
        "torchjd",
        {"first": None, "second": None},
        note="no weights: the aggregator combines gradients in a way of its own",
    ),
    "conflictfree_loop": Case(
        "a PINN, gradients combined by ConFIG", "conflictfree", {"loss_r": 1.0, "loss_b": 1.0}
    ),
    "gan": Case(
        "a GAN: two models, two optimizers",
        "torch",
        {"real_loss": 0.5, "fake_loss": 0.5, "g_loss": 1.0},
    ),
    "gpt": Case("a small GPT with a z-loss", "torch", {"loss": 1.0, "z_loss": 1e-4}),
    "uncertainty_weights": Case(
        "two tasks with trained uncertainties",
        "torch",
        {"depth_loss": 1.0, "normal_loss": 0.36787945, "log_vars.sum()": 1.0},
        note="weights are their present values",
    ),
    "deeponet": Case("a physics-informed DeepONet", "torch", {"loss_bcs": 20.0, "loss_res": 1.0}),
    "fno": Case(
        "a physics-informed Fourier neural operator", "torch", {"data_loss": 1.0, "pde_loss": 0.1}
    ),
    "siren": Case(
        "a SIREN with gradient supervision", "torch", {"value_loss": 1.0, "gradient_loss": 0.01}
    ),
    "vae": Case("a variational autoencoder", "torch", {"BCE": 1.0, "KLD": 0.5}),
    "mixed_precision": Case(
        "autocast to bfloat16 and a GradScaler",
        "torch",
        {"mse": 1.0, "sparsity": 0.25},
        tolerance=2e-2,
        converges=False,
        note="weights and gradients without the scale; products in bfloat16 are too coarse for the "
        "spectrum to converge, and its bounds say so",
    ),
    "lbfgs": Case("L-BFGS with a line search", "torch", {"loss_r": 1.0, "loss_0": 5.0}),
    "accumulation": Case("gradients of four micro-batches", "torch", {"ce": 1.0, "penalty": 0.1}),
    "compiled": Case(
        "a compiled model, once it has been run plainly",
        "torch",
        {"mse": 1.0, "size": 0.1},
        curvature=(),
        gradients=False,
        missing="can run only once",
        note="PyTorch finds the backward pass on disk as the plain run has compiled it",
        order=Order.PLAIN_FIRST,
    ),
    "compiled_first": Case(
        "a compiled model, probed from its first run on",
        "torch",
        {"mse": 1.0, "size": 0.1},
        curvature=(),
        missing="compiled code twice",
        note="PyTorch compiles the backward pass at a probed step, so that it can run again",
        script="compiled",
        order=Order.PROBED_FIRST,
    ),
    "compiled_retainable": Case(
        "a compiled model, `donated_buffer` off",
        "torch",
        {"mse": 1.0, "size": 0.1},
        curvature=(),
        missing="compiled code twice",
        script="compiled",
        arguments=("--retainable",),
    ),
    "data_parallel": Case(
        "DistributedDataParallel, two processes with gloo",
        "torch",
        {"fit": 1.0, "decay": 1e-3},
        command=TORCHRUN,
    ),
}
