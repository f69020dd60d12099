"""An ordinary differential equation with neurodiffeq, whose condition holds by construction."""

import torch
from neurodiffeq import diff
from neurodiffeq.conditions import IVP
from neurodiffeq.networks import FCNN
from neurodiffeq.solvers import Solver1D

torch.manual_seed(0)
net = FCNN(n_input_units=1, n_output_units=1, hidden_units=[16])
solver = Solver1D(
    ode_system=lambda u, t: [diff(u, t) + u],
    conditions=[IVP(t_0=0.0, u_0=1.0)],
    t_min=0.0,
    t_max=2.0,
    nets=[net],
)
solver.fit(max_epochs=20, tqdm_file=None)
torch.save(net.state_dict(), "state.pt")
