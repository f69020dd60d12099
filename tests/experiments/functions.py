"""Functions of two coordinates in many of PyTorch's operations, to be differentiated."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

A = torch.tensor([[0.3, -1.1, 0.7], [0.9, 0.4, -0.2]], dtype=torch.float64)
B = torch.tensor([0.1, -0.6, 0.5], dtype=torch.float64)

Function = Callable[[Tensor], Tensor]

# All of these have rules of their own, so that they can be compiled. x, y are in (-1, 1).
WITH_RULES: dict[str, Function] = {
    "polynomial": lambda p: p[..., :1] ** 3 * p[..., 1:] ** 2 - 2 * p[..., :1] + 1,
    "constant": lambda p: torch.ones_like(p[..., :1]) * 3 + 0 * p[..., 1:],
    "detached": lambda p: p.detach() * p + p.dim() * (p > p.detach() - 1) * p**2,
    "linear map": lambda p: torch.matmul(p, A) + B,
    "linear layer": lambda p: F.linear(p, A.mT, B),
    "sin cos": lambda p: torch.sin(3 * p[..., :1]) * torch.cos(2 * p[..., 1:] + p[..., :1]),
    "exp": lambda p: torch.exp(-(p[..., :1] ** 2) + p[..., :1] * p[..., 1:]),
    "log": lambda p: torch.log(2 + p[..., :1] * p[..., 1:]),
    "tanh": lambda p: torch.tanh(F.linear(p, A.mT) + B).tanh(),
    "sigmoid": lambda p: torch.sigmoid(2 * p[..., :1]) * p[..., 1:].sigmoid(),
    "silu": lambda p: F.silu(F.linear(p, A.mT)) + nn.SiLU()(F.linear(p, A.mT)),
    "atan2": lambda p: torch.atan2(p[..., :1], p[..., 1:]) + torch.atan2(p, B[:2]),
    "roots": lambda p: torch.sqrt(2 + p[..., :1]) * torch.rsqrt(3 - p[..., 1:]),
    "fractional power": lambda p: (2 + p[..., :1]) ** 1.7 + torch.pow(3 + p[..., 1:], -0.3),
    "quotients": lambda p: (p[..., :1] / (2 + p[..., 1:])) / 4 + 1 / (3 + p[..., :1]),
    "tensor by jet": lambda p: B / (2 + p[..., :1]) + (B - p[..., 1:]) * (p[..., :1] - B),
    "reciprocal square": lambda p: torch.reciprocal(2 + p).square(),
    "softmax": lambda p: (
        torch.softmax(F.linear(p, A.mT), dim=-1) + F.softmax(F.linear(p, A.mT), dim=-1)
    ),
    "reductions": lambda p: (p**3).sum(-1, keepdim=True) + (p**2).mean(dim=-1, keepdim=True),
    "shapes": lambda p: (p**2).unsqueeze(-1).transpose(-1, -2).squeeze(-2).mT.mT.reshape(p.shape),
    "stack": lambda p: torch.stack([p[..., 0] ** 2, B[0].expand(p.shape[:-1])], dim=-1),
    "cat": lambda p: torch.cat([torch.sin(p), torch.zeros_like(p.detach()), p[..., :1] ** 4], -1),
    "unbind": lambda p: torch.stack([x * y for x in p.unbind(-1) for y in p.unbind(dim=-1)], -1),
    "alpha": lambda p: torch.add(p**2, p, alpha=3) - torch.sub(p, p**3, alpha=2),
    "broadcast sum": lambda p: p[..., :1] + B + torch.zeros(3, dtype=torch.float64),
    "negation": lambda p: -p[..., :1] + torch.neg(p[..., 1:]) - (-p) ** 2,
    "reversed subtraction": lambda p: torch.rsub(p**2, 1.0) + (B[:2] - p**3),
}

# torch.compile takes one of these for the other.
PRODUCTS_BY_OPERATOR: dict[str, Function] = {
    "matrix from the right": lambda p: p @ A + B,
    "matrices from the right": lambda p: (p[..., None, :] @ A.expand(*p.shape[:-1], 2, 3))[
        ..., 0, :
    ],
    "matrix from the left": lambda p: (A.mT @ p[..., None])[..., 0],
}

# These go through nested forward-mode differentiation.
WITHOUT_RULES: dict[str, Function] = {
    "erf": lambda p: torch.erf(p[..., :1] * p[..., 1:]),
    "gelu": lambda p: F.gelu(F.linear(p, A.mT)),
    "logsumexp": lambda p: torch.logsumexp(F.linear(p, A.mT), dim=-1, keepdim=True),
    "where": lambda p: torch.where(p > 0, p**3, -(p**2)),
    "where less": lambda p: torch.where(p < 0.2, p**3, p.detach() ** 2 * p),
    "cumsum": lambda p: torch.cumsum(torch.sin(p), dim=-1),
    "several results": lambda p: torch.split(p**3, [1, 1], dim=-1)[1],
    "product of matrices": lambda p: (p[..., None] @ torch.sin(p[..., None, :])).flatten(-2),
    "exponents": lambda p: (2 + p[..., :1]) ** p[..., 1:] + 2 ** p[..., :1],
    "abs": lambda p: abs(p[..., :1]) * p[..., 1:] ** 2,
    "einsum": lambda p: torch.einsum("...i,ij->...j", p**2, A),
}

FUNCTIONS = {**WITH_RULES, **PRODUCTS_BY_OPERATOR, **WITHOUT_RULES}
