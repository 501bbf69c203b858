"""Delta gradient descent: a step that also forgets what the layer answered to its inputs."""

from __future__ import annotations

from typing import Any, Unpack, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nestmem.errors import InputError
from nestmem.optim import inner
from nestmem.optim.matrices import MatrixOptimizer, Params, VectorOptions, check_number
from nestmem.optim.momentum import check_precondition


class DGD(MatrixOptimizer):
    """W <- (1 - lr weight_decay) W - eta' (forget W C + S),  eta' = lr / (1 + forget lr tr C),  C = X^T X / N.

    Nested Learning (arXiv 2512.24695), eq. 57 in the mean over the N inputs X [N, I] that the layer read since the
    last step; S <- momentum S + P g. For N = 1 it is the exact proximal step of the paper's objective (see
    `nestmem.optim.inner.DGD`). For more inputs it is an approximation: the paper's steps follow one another, one per
    input, with one eta' per ||x||^2; here all see the same W, and tr C, their mean ||x||^2, stands for each.

    C comes from the layers: `model`, or `attach(model)` later, hooks every nn.Linear whose weight is stepped here and
    collects X as its gradient flows back, so a forward pass without a backward pass leaves no trace, and gradients
    accumulated over several passes go with the inputs of those passes. Each costs 2 N I^2 operations. With model=None
    nothing is forgotten but what `observe` tells. Matrices that
    are no nn.Linear's weight, and layers that were not used since the last step, take the step with C = 0. Vectors,
    and groups with `adam=True`, go by Adam. X^T X is not part of the state dict, so save after a step, as usual.

    As a way to train, note the fixed point: with W C = -d x^T on average the layer answers its own error signal, not
    the minimum of the loss; `forget` < 1 makes it a weaker pull.

    >>> layer = nn.Linear(3, 2)
    >>> optimizer = DGD(layer.parameters(), lr=0.1, model=layer)
    >>> layer(torch.randn(5, 3)).square().mean().backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        *,
        model: nn.Module | None,
        lr: float = 0.01,
        momentum: float = 0.0,
        forget: float = 1.0,
        precondition: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **vectors: Unpack[VectorOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "forget": forget,
            "precondition": precondition,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        self._moments: dict[Tensor, tuple[Tensor, int]] = {}
        self._handles: list[RemovableHandle] = []
        super().__init__(params, defaults, **vectors)
        if model is not None:
            self.attach(model)

    def attach(self, model: nn.Module) -> None:
        """Collect the inputs of every nn.Linear in `model` whose weight is stepped here by DGD.

        Raises InputError when there is none.
        """
        stepped = {p for group in self.param_groups if not group["adam"] for p in group["params"]}
        layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m.weight in stepped]
        if not layers:
            raise InputError(
                f"no nn.Linear in {type(model).__name__} has a weight that this DGD steps; "
                "attach the model whose parameters were given"
            )
        self._handles += [layer.register_forward_hook(self._collect) for layer in layers]

    def detach(self) -> None:
        """Collect no more inputs."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._moments.clear()

    def observe(self, weight: Tensor, inputs: Tensor) -> None:
        """Tell the inputs [..., I] that met `weight` [O, I], for layers that are no nn.Linear."""
        x = inputs.detach().to(weight.dtype).reshape(-1, inputs.shape[-1])
        if x.shape[-1] != weight[0].numel():
            raise InputError(f"inputs {list(inputs.shape)} do not fit the weight {list(weight.shape)}")
        total, count = self._moments.get(weight, (0.0, 0))
        self._moments[weight] = (total + x.mT @ x, count + x.shape[0])

    def _collect(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if output.requires_grad:
            x = args[0].detach()
            output.register_hook(lambda _: self.observe(cast(Tensor, layer.weight), x))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, and the inputs that go with them."""
        self._moments.clear()
        super().zero_grad(set_to_none)

    def step(self, closure: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; returns the closure's loss, if one is given."""
        loss = super().step(closure)
        self._moments.clear()
        return loss

    def check(self, group: dict[str, Any]) -> None:
        """forget >= 0."""
        check_number("forget", group["forget"], 0)
        check_precondition(group)

    def rule(self, group: dict[str, Any]) -> inner.MeanDGD:
        """The inner form over many inputs."""
        return inner.MeanDGD(group["forget"], group["precondition"], group["eps"])

    def inputs(self, params: list[Tensor]) -> dict[str, Tensor]:
        """C of each matrix, [N, 1, I, I]."""
        width = params[0].numel() // params[0].shape[0]
        nothing = params[0].new_zeros(width, width)
        means = [total / count for total, count in (self._moments.get(p, (nothing, 1)) for p in params)]
        return {"0": torch.stack(means)[:, None]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Hooks and collected inputs belong to the process that made them; a copy starts without."""
        self.__dict__.setdefault("_moments", {})
        self.__dict__.setdefault("_handles", [])
        super().__setstate__(state)
