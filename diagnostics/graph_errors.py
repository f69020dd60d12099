"""What PyTorch says when a graph cannot be differentiated, as one sentence with cause and mend."""

from __future__ import annotations

import re

from .errors import GraphError, NotTwiceDifferentiableError


def explain(error: Exception) -> GraphError | None:
    """Returns PyTorch's error about a graph as ours, with its mend; None where it is another's."""
    for pattern, kind, sentence in _CAUSES:
        found = re.search(pattern, str(error))
        if found:
            return kind(sentence.format(**found.groupdict()))
    return None


class Translated:
    """Raises PyTorch's errors about a graph as ours, others as they are."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, RuntimeError) and (ours := explain(error)) is not None:
            raise ours from error


BY_DIFFERENCES = "or ask for finite differences: Hessian.by_differences(...)"

REENTRANT = (
    "This loss uses reentrant gradient checkpointing, through which no gradient but that of "
    f"backward() can be taken: call checkpoint(..., use_reentrant=False), {BY_DIFFERENCES}."
)

# What PyTorch 2.5 to 2.13 says, first match wins.
_CAUSES: tuple[tuple[str, type[GraphError], str], ...] = (
    (
        "Trying to backward through the graph a second time",
        GraphError,
        "The graph of this loss has been freed: measure before backward() is called, "
        "or call it with retain_graph=True.",
    ),
    (
        "modified by an inplace operation",
        GraphError,
        "A tensor that this loss depends on has been changed in place (by optimizer.step(), for "
        "one): measure between the forward pass and the step.",
    ),
    (
        "One of the differentiated Tensors does not require grad",
        GraphError,
        "A parameter has been frozen (requires_grad=False) since its layout was made: make a new "
        "ParameterLayout, and compute the loss anew.",
    ),
    (
        "donated buffer",
        GraphError,
        "This loss comes from a compiled function whose backward pass can run only once: set "
        "torch._functorch.config.donated_buffer = False before it is compiled, or measure "
        "through the model that was compiled (model._orig_mod).",
    ),
    (
        "torch.compile with aot_autograd does not currently support double backward",
        NotTwiceDifferentiableError,
        "This loss comes from a compiled module, and PyTorch cannot differentiate compiled code "
        "twice: measure through the module that was compiled (model._orig_mod), "
        f"{BY_DIFFERENCES}.",
    ),
    (
        "derivative for .*scaled_dot_product.* is not implemented",
        NotTwiceDifferentiableError,
        "This loss uses fused attention, which PyTorch cannot differentiate twice: run the forward "
        "pass under torch.nn.attention.sdpa_kernel(SDPBackend.MATH), "
        f"{BY_DIFFERENCES}.",
    ),
    (
        "CuDNN RNN|derivative for .*_cudnn_rnn.* is not implemented",
        NotTwiceDifferentiableError,
        "This loss uses a recurrent layer of cuDNN, which cannot be differentiated twice: run the "
        "forward pass under torch.backends.cudnn.flags(enabled=False), "
        f"{BY_DIFFERENCES}.",
    ),
    (
        "torch.utils.checkpoint is incompatible with .grad()"
        "|Checkpointing is not compatible with .grad()",
        NotTwiceDifferentiableError,
        REENTRANT,
    ),
    (
        "marked with @once_differentiable",
        NotTwiceDifferentiableError,
        "A custom autograd function in this loss is marked @once_differentiable: give it a "
        f"backward that can be differentiated, {BY_DIFFERENCES}.",
    ),
    (
        r"derivative for '?(?:aten::)?(?P<operation>\w+)'? is not implemented",
        NotTwiceDifferentiableError,
        "PyTorch has no derivative of {operation}, which the gradient of this loss needs: replace "
        f"that operation, {BY_DIFFERENCES}.",
    ),
)
