"""Callbacks name the terms as their framework does, and change nothing of the training."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradpath.diagnostics.errors import ArgumentError, MissingPackageError
from gradpath.probes import Run
from gradpath.probes.instruments import GradientHistograms, Losses, Stiffness
from gradpath.probes.schedules import every

# What these packages warn of while they are imported and used is theirs to mend.
pytestmark = pytest.mark.filterwarnings("default")
needs = pytest.mark.frameworks

MODULES = {
    "deepxde": "deepxde",
    "lightning": "lightning",
    "pina": "pina",
    "huggingface": "transformers",
}
OPTIONS: dict[str, Any] = {
    "instruments": [Losses(every(1)), GradientHistograms(every(1)), Stiffness(every(4))],
    "strict": True,
}


@pytest.mark.parametrize("module", MODULES)
def test_a_missing_framework_is_named_with_what_brings_it(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    name = f"gradpath.probes.integrations.{module}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    if module == "pina":
        pytest.importorskip("lightning")
        importlib.import_module("gradpath.probes.integrations.lightning")
    monkeypatch.setitem(sys.modules, MODULES[module], None)
    for loaded in [each for each in sys.modules if each.startswith(f"{MODULES[module]}.")]:
        monkeypatch.setitem(sys.modules, loaded, None)
    with pytest.raises(MissingPackageError, match=rf"pip install 'gradpath\[{module}\]'"):
        importlib.import_module(name)


def weights(run: Run) -> dict[str, set[float]]:
    frame = run.scalars("weight")
    return {
        str(term): {round(float(w), 6) for w in values}
        for term, values in frame.groupby("term")["value"]
    }


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def is_complete(run: Run, terms: tuple[str, ...]) -> bool:
    """Whether there is a histogram of every term in every layer, and both ends of its spectrum."""
    step = run.steps[0]
    histograms = run.histograms(step=step)
    cells = set(zip(histograms["term"], histograms["layer"], strict=True))
    ends = run.eigenvalues()
    found = set(zip(ends["term"], ends["end"], strict=True))
    return (
        cells == {(t, layer) for t in terms for layer in run.layers}
        and {(term, end) for term in terms for end in ("largest", "smallest")} <= found
    )


@needs
class TestDeepXDE:
    @pytest.fixture(autouse=True)
    def _backend(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("DDE_BACKEND", os.environ.get("DDE_BACKEND", "pytorch"))
        pytest.importorskip("deepxde")
        yield
        torch.set_default_dtype(torch.float32)

    def burgers(self, *callbacks: Any) -> dict[str, Tensor]:
        import deepxde as dde

        dde.config.set_random_seed(0)

        def burgers_equation(x: Any, y: Any) -> Any:
            y_x = dde.grad.jacobian(y, x, i=0, j=0)
            y_t = dde.grad.jacobian(y, x, i=0, j=1)
            return y_t + y * y_x - 0.003 * dde.grad.hessian(y, x, i=0, j=0)

        line, time = dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 1)
        domain = dde.geometry.GeometryXTime(line, time)
        walls = dde.icbc.DirichletBC(domain, lambda x: 0, lambda _, on: on)
        start = dde.icbc.IC(domain, lambda x: -np.sin(np.pi * x[:, 0:1]), lambda _, on: on)
        data = dde.data.TimePDE(
            domain, burgers_equation, [walls, start], num_domain=30, num_boundary=8, num_initial=8
        )
        net = dde.nn.FNN([2, 8, 8, 1], "tanh", "Glorot normal")
        model = dde.Model(data, net)
        model.compile("adam", lr=1e-3, loss_weights=[1, 10, 100])
        model.train(iterations=8, callbacks=list(callbacks), verbose=0)
        dde.optimizers.set_LBFGS_options(maxiter=10)
        monkeypatch = pytest.MonkeyPatch()
        monkeypatch.setitem(dde.optimizers.config.LBFGS_options, "iter_per_step", 5)
        model.compile("L-BFGS", loss_weights=[2, 10, 100])
        model.train(callbacks=list(callbacks), verbose=0)
        monkeypatch.undo()
        assert "losses_train" not in vars(data)
        return {name: each.detach().clone() for name, each in net.state_dict().items()}

    def test_adam_then_lbfgs(self, tmp_path: Path) -> None:
        from gradpath.probes.integrations.deepxde import ProbeCallback

        expected = self.burgers()
        found = self.burgers(ProbeCallback(tmp_path, **OPTIONS))
        assert same(found, expected)
        run = Run(tmp_path)
        terms = ("burgers_equation", "walls", "start")
        assert run.terms == terms
        assert weights(run) == {"burgers_equation": {1.0, 2.0}, "walls": {10.0}, "start": {100.0}}
        assert run.steps[:8] == tuple(range(8))
        assert run.timeline()["evaluations"].max() > 5  # of the closures of L-BFGS
        assert is_complete(run, terms)
        assert run.scalars("self_check")["value"].max() < 1e-5
        assert run.status == "finished"

    def test_names_of_a_system_are_those_of_its_equations(self) -> None:
        from gradpath.probes.integrations.deepxde import residual_names

        def stokes(x: Any, y: Any) -> Any:
            continuity, momentum = x, y
            return [continuity, momentum]

        def inline(x: Any, y: Any) -> Any:
            return [x + y, x - y]

        assert residual_names(stokes, 2) == ["continuity", "momentum"]
        assert residual_names(stokes, 3) == ["stokes[0]", "stokes[1]", "stokes[2]"]
        assert residual_names(inline, 2) == ["inline[0]", "inline[1]"]
        assert residual_names(inline, 1) == ["inline"]
        assert residual_names(lambda x, y: y, 1) == ["residual"]

    def test_another_backend_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import deepxde as dde

        from gradpath.probes.integrations.deepxde import ProbeCallback

        monkeypatch.setattr(dde.backend, "backend_name", "jax")
        with pytest.raises(ArgumentError, match="DDE_BACKEND=pytorch"):
            ProbeCallback("run")


def lightning_modules() -> dict[str, Any]:
    """Modules as people write them, by how they are trained."""
    pytest.importorskip("lightning")
    import lightning as L
    from torch.nn import functional as F

    class Plain(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
            self.optimizer = torch.optim.Adam

        def losses(self, batch: Any) -> tuple[Tensor, Tensor]:
            (x,) = batch
            u = self.net(x)
            return F.mse_loss(u, x.sum(1, keepdim=True)), u.square().mean()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            a, b = self.losses(batch)
            self.log("train/fit", a)
            self.log_dict({"train/size": b, "accuracy": torch.tensor(0.5)})
            total = a + 10 * b
            self.log("train/loss", total)
            return total

        def configure_optimizers(self) -> Any:
            return self.optimizer(self.parameters(), lr=1e-2)

    class LBFGS(Plain):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)

    class Unlogged(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            (x,) = batch
            fit = F.mse_loss(self.net(x), x.sum(1, keepdim=True))
            size = self.net(x).square().mean()
            self.log("scaled", 3 * fit)  # with the others, it would count one of them twice
            self.log("fit", fit)
            return {"loss": fit + 10 * size, "fit": fit.detach()}

    class Manual(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    class ByHand(Manual):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            fit, size = self.losses(batch)
            (fit + 10 * size).backward()
            optimizer.step()

    class Two(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.critic = nn.Linear(1, 1)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            (x,) = batch
            for optimizer, side in zip(self.optimizers(), ("actor", "critic"), strict=True):
                self.toggle_optimizer(optimizer)
                optimizer.zero_grad()
                u = self.critic(self.net(x))
                first, second = u.square().mean(), (u - 1).square().mean()
                self.log(f"{side}/first", first)
                self.log(f"{side}/second", second)
                self.manual_backward(first + 2 * second)
                optimizer.step()
                self.untoggle_optimizer(optimizer)

        def configure_optimizers(self) -> Any:
            return (
                torch.optim.Adam(self.net.parameters(), lr=1e-3),
                torch.optim.Adam(self.critic.parameters(), lr=1e-3),
            )

    return {each.__name__: each for each in (Plain, LBFGS, Unlogged, Manual, ByHand, Two)}


LOGGED = {"train/fit": {1.0}, "train/size": {10.0}}
IN_THE_GRAPH = {"fit": {1.0}, "size": {10.0}}
BOTH = {f"{side}/{nth}": {w} for side in ("actor", "critic")
        for nth, w in (("first", 1.0), ("second", 2.0))}  # fmt: skip


@needs
@pytest.mark.parametrize(
    ("module", "options", "expected"),
    [
        ("Plain", {}, LOGGED),
        ("Plain", {"gradient_clip_val": 0.1}, LOGGED),
        ("Plain", {"accumulate_grad_batches": 2}, LOGGED),
        ("Plain", {"precision": "bf16-mixed"}, LOGGED),
        ("LBFGS", {}, LOGGED),
        ("Unlogged", {}, IN_THE_GRAPH),
        ("Manual", {}, LOGGED),
        ("ByHand", {}, IN_THE_GRAPH),
        ("Two", {}, BOTH),
    ],
    ids=lambda each: "-".join(each) if isinstance(each, dict) and len(each) < 2 else str(each),
)
def test_lightning(
    module: str, options: dict[str, Any], expected: dict[str, set[float]], tmp_path: Path
) -> None:
    L = pytest.importorskip("lightning")
    from torch.utils.data import DataLoader, TensorDataset

    from gradpath.probes.integrations.lightning import ProbeCallback

    def fit(*callbacks: Any) -> dict[str, Tensor]:
        L.seed_everything(0, verbose=False)
        trained = lightning_modules()[module]()
        trainer = L.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks),
            **options,
        )  # fmt: skip
        trainer.fit(trained, DataLoader(TensorDataset(torch.rand(32, 2)), batch_size=8))
        assert "log" not in vars(trained)
        return {name: each.detach().clone() for name, each in trained.state_dict().items()}

    bare = fit()
    callback = ProbeCallback(tmp_path, **OPTIONS)
    assert same(fit(callback), bare)
    run = Run(tmp_path)
    assert weights(run) == expected
    assert run.status == "finished"
    steps = 4 if "accumulate_grad_batches" in options else 8
    assert run.steps == tuple(range(steps))
    checks = run.scalars("self_check")["value"]
    assert checks.max() < (1e-2 if "precision" in options else 1e-5)
    if module != "Two":
        assert is_complete(run, tuple(expected))


@needs
def test_lightning_ends_the_run_with_what_ended_the_training(tmp_path: Path) -> None:
    L = pytest.importorskip("lightning")
    from torch.utils.data import DataLoader, TensorDataset

    from gradpath.probes.integrations.lightning import ProbeCallback

    class Broken(lightning_modules()["Plain"]):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 2:
                raise ZeroDivisionError("no more")
            return super().training_step(batch, batch_idx)

    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[ProbeCallback(tmp_path, **OPTIONS)],
    )  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        trainer.fit(Broken(), DataLoader(TensorDataset(torch.rand(32, 2)), batch_size=8))
    assert Run(tmp_path).status == "failed"
    assert Run(tmp_path).steps == (0, 1)


@needs
@pytest.mark.parametrize("weighting", ["ScalarWeighting", "SelfAdaptiveWeighting"])
def test_pina(weighting: str, tmp_path: Path) -> None:
    pytest.importorskip("pina")
    from lightning.pytorch import seed_everything
    from pina import Condition, Trainer
    from pina.domain import CartesianDomain
    from pina.equation import Equation, FixedValue
    from pina.model import FeedForward
    from pina.operator import grad
    from pina.problem import SpatialProblem
    from pina.solver import PhysicsInformedSingleModelSolver
    from pina.weighting import ScalarWeighting, SelfAdaptiveWeighting

    from gradpath.probes.integrations.pina import ProbeCallback

    class Decay(SpatialProblem):
        output_variables = ["u"]  # noqa: RUF012
        spatial_domain = CartesianDomain({"x": [0.0, 1.0]})
        domains = {  # noqa: RUF012
            "inside": CartesianDomain({"x": [0.0, 1.0]}), "start": CartesianDomain({"x": 0.0})
        }  # fmt: skip
        conditions = {  # noqa: RUF012
            "inside": Condition(domain="inside", equation=Equation(lambda x, u: grad(u, x) + u)),
            "start": Condition(domain="start", equation=FixedValue(1.0)),
        }

    def train(*callbacks: Any) -> dict[str, Tensor]:
        seed_everything(0, verbose=False)
        problem = Decay()
        problem.discretise_domain(16, "grid", domains=["inside"])
        problem.discretise_domain(1, "random", domains=["start"])
        net = FeedForward(1, 1, layers=[8])
        weights = (
            ScalarWeighting({"inside": 1.0, "start": 10.0})
            if weighting == "ScalarWeighting"
            else SelfAdaptiveWeighting(update_every_n_epochs=2)
        )
        solver = PhysicsInformedSingleModelSolver(problem, net, weighting=weights)
        Trainer(
            solver, max_epochs=8, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks),
        ).train()  # fmt: skip
        assert "aggregate" not in vars(weights)
        return {name: each.detach().clone() for name, each in net.state_dict().items()}

    bare = train()
    assert same(train(ProbeCallback(tmp_path, **OPTIONS)), bare)
    run = Run(tmp_path)
    assert run.terms == ("inside", "start")
    assert is_complete(run, run.terms)
    assert run.scalars("self_check")["value"].max() < 1e-5
    if weighting == "ScalarWeighting":
        assert weights(run) == {"inside": {1.0}, "start": {10.0}}
    else:
        assert len(weights(run)["start"]) > 2


def small_gpt() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=2, attn_implementation="eager",
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    transformers.set_seed(0)
    return transformers.GPT2LMHeadModel(config)


@needs
def test_huggingface_trainer(tmp_path: Path) -> None:
    """A model with one term: its layers, its stiffness, and steps rather than micro-batches."""
    transformers = pytest.importorskip("transformers")
    from gradpath.probes.integrations.huggingface import ProbeCallback

    def train(*callbacks: Any) -> dict[str, Tensor]:
        model = small_gpt()
        rows = torch.randint(32, (32, 8), generator=torch.Generator().manual_seed(0))
        trainer = transformers.Trainer(
            model,
            transformers.TrainingArguments(
                str(tmp_path / "out"), max_steps=5, per_device_train_batch_size=4,
                gradient_accumulation_steps=2, report_to=[], save_strategy="no", use_cpu=True,
                disable_tqdm=True, max_grad_norm=0.1,
            ),
            train_dataset=[{"input_ids": row, "labels": row} for row in rows],
            callbacks=list(callbacks),
        )  # fmt: skip
        trainer.train()
        return {name: each.detach().clone() for name, each in model.state_dict().items()}

    bare = train()
    assert same(train(ProbeCallback(tmp_path / "run", **OPTIONS)), bare)
    run = Run(tmp_path / "run")
    assert run.status == "finished"
    assert run.terms == ("loss",)
    assert run.steps == (0, 1, 2, 3, 4)
    assert is_complete(run, ("loss",))
    assert run.scalars("self_check")["value"].max() < 1e-5
