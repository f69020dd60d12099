"""Poisson's equation on a square with PINA."""

import torch
from lightning.pytorch import seed_everything
from pina import Condition, Trainer
from pina.domain import CartesianDomain
from pina.equation import Equation, FixedValue
from pina.model import FeedForward
from pina.operator import laplacian
from pina.problem import SpatialProblem
from pina.solver import PhysicsInformedSingleModelSolver
from pina.weighting import ScalarWeighting


def poisson(input_, output_):
    force = torch.sin(torch.pi * input_.extract(["x"])) * torch.sin(
        torch.pi * input_.extract(["y"])
    )
    return laplacian(output_, input_, components=["u"], d=["x", "y"]) + force


class Poisson(SpatialProblem):
    output_variables = ["u"]
    spatial_domain = CartesianDomain({"x": [0, 1], "y": [0, 1]})
    domains = {
        "D": CartesianDomain({"x": [0, 1], "y": [0, 1]}),
        "left": CartesianDomain({"x": 0, "y": [0, 1]}),
        "right": CartesianDomain({"x": 1, "y": [0, 1]}),
    }
    conditions = {
        "D": Condition(domain="D", equation=Equation(poisson)),
        "left": Condition(domain="left", equation=FixedValue(0.0)),
        "right": Condition(domain="right", equation=FixedValue(0.0)),
    }


seed_everything(0)
problem = Poisson()
problem.discretise_domain(20, "random", domains=["D"])
problem.discretise_domain(8, "random", domains=["left", "right"])
model = FeedForward(2, 1, layers=[12, 12])
solver = PhysicsInformedSingleModelSolver(
    problem, model, weighting=ScalarWeighting({"D": 1.0, "left": 10.0, "right": 20.0})
)
trainer = Trainer(
    solver,
    max_epochs=20,
    accelerator="cpu",
    enable_model_summary=False,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
)
trainer.train()
torch.save(model.state_dict(), "state.pt")
