"""The frozen-gradient dual: an MLP memory of any depth, written and read by matrix products alone.

README.md has the derivation. Legend: b batch times heads, n tokens of a span, e = n + window - 1 tokens whose
gradients count, s matrices in the stack (weights, momentum), I and O a layer's widths, l a layer.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestmem.core import L2, MLP, Gates, MemoryState, Objective, Period
from nestmem.core.activations import ACTIVATIONS
from nestmem.core.checks import check_written, transformed
from nestmem.core.model import Weights
from nestmem.ops.deep.mixing import Mixing, averaged, titans
from nestmem.ops.deep.state import checked
from nestmem.ops.derivative import again, own_arithmetic
from nestmem.ops.gates import banded, since_start


@own_arithmetic
def chunked(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    gates: Gates,
    state: MemoryState,
    *,
    model: MLP,
    objective: Objective | None = None,
    chunk: int = 64,
    window: int = 1,
    scale: Tensor | None = None,
    check: bool = True,
) -> tuple[Tensor, MemoryState]:
    """Write and read T tokens of a deep memory whose gradients are frozen for `chunk` tokens at a time.

        S_t = momentum_t S_{t-1} - rate_t g_t,   W_t = decay_t W_{t-1} + S_t,   y_t = M(q_t; W_t)
        g_t = d/dW objective(M(k_t; W), v_t) at the W before the chunk

    (Titans, arXiv 2501.00663, eq. 13-16), exactly, with gates per token. Other rules by their arguments: TTT-Linear
    and TTT-MLP (`scale`, model with residual and norm; arXiv 2407.04620), DLA (objective Dot), the Omega rule
    (`window` and `Gates.window`; arXiv 2505.23735), Miras' biases (objectives Huber and Lp; arXiv 2504.13173).

    queries, keys [B, H, T, K], values [B, H, T, V]; gates [B, H, T] (`core.Gates`); scale [B, H, T] is TTT's
    1 / (place in the chunk) + learned part, for a state made with averaged=True. Returns outputs [B, H, T, V] and
    the state after token T, which goes on at any token. Half precision inputs are computed in float32.
    Outer gradients of any order reach every argument; the first is hand-written.

    Raises InputError for shapes, kinds, numbers outside their range, and nan (with its place).
    """
    objective = L2() if objective is None else objective
    gates = checked(queries, keys, values, gates, state, model, objective, chunk, window, scale, check)
    kind = state.weights["0"].dtype

    def flat(x: Tensor) -> Tensor:
        return x.to(kind).flatten(0, 1)

    batch, heads, tokens = keys.shape[:3]
    k, v = flat(keys), flat(values)
    if state.recent is not None:
        k, v = torch.cat([flat(state.recent[0]), k], 1), torch.cat([flat(state.recent[1]), v], 1)
    outer = (model.norm_weight, model.norm_bias)
    norm = [None if x is None else flat(x.expand(batch, heads, x.shape[-1])) for x in outer]
    plain = dataclasses.replace(model, norm_weight=None, norm_bias=None)
    second = next(iter(state.slots), None)

    spans = list(Period(chunk=chunk).pieces(state.position, tokens))
    sizes = [stop - start for start, stop in spans]
    back = window - 1
    q_spans = flat(queries).split(sizes, 1)
    k_spans = [k[:, a : b + back] for a, b in spans] if back else k.split(sizes, 1)
    v_spans = [v[:, a : b + back] for a, b in spans] if back else v.split(sizes, 1)
    thresholds = [None] * len(spans) if gates.threshold is None else flat(gates.threshold).split(sizes, 1)
    mixings = _mixings(sizes, state, gates, scale, chunk)

    anchors = _matrices(model, state.anchor or state.weights)
    inside = second == "sum" and state.position % chunk
    first = anchors if inside else _matrices(model, state.weights)
    stacks = [
        list(each)
        for each in zip(first, *([_matrices(model, state.slots[second])] if second else []), strict=True)
    ]
    # torch.func and compile look inside, where the derivative by hand cannot be seen through.
    plainly = transformed() or not torch.is_grad_enabled()
    span, outputs = Span(plain, objective), []
    parts = zip(spans, q_spans, k_spans, v_spans, thresholds, mixings, strict=True)
    for (start, _), q_n, k_e, v_e, threshold, mixing in parts:
        fresh = (state.position + start) % chunk == 0
        if fresh:
            anchors = [stack[0] for stack in stacks]
        if plainly:
            out, stacks, _ = span(q_n, k_e, v_e, threshold, norm, mixing, stacks, anchors)
        else:
            flat_inputs = _pack(q_n, k_e, v_e, threshold, norm, mixing, stacks, () if fresh else anchors)
            s = len(mixing.read)
            out, *new = _HandWritten.apply(span, s, not fresh, *flat_inputs)  # pyright: ignore
            stacks = [new[i * s : (i + 1) * s] for i in range(model.depth)]
        outputs.append(out)

    position = state.position + tokens
    after = [stack[0] for stack in stacks]
    slots = [stack[1] for stack in stacks] if second else []
    if second == "sum":
        last = mixings[-1].read[1][:, -1:]
        after = [w + last * s for w, s in zip(after, slots, strict=True)]
    new = state.replace(
        weights=_named(model, after, batch),
        slots={second: _named(model, slots, batch)} if second else {},
        anchor=_named(model, anchors, batch),
        recent=(k[:, -back:].unflatten(0, (batch, heads)), v[:, -back:].unflatten(0, (batch, heads)))
        if back
        else None,
        position=position,
        chunk=chunk,
    )
    check_written(new, check)
    return torch.cat(outputs, 1).unflatten(0, (batch, heads)).to(queries.dtype), new


@dataclasses.dataclass(frozen=True)
class Span:
    """Tokens of one chunk, given any mixing matrices: the dual itself, in plain differentiable torch.

    Calling it returns (outputs, new stacks, intermediates). With b = batch x heads and rows as tokens:
    q [b, n, K], k [b, e, K], v [b, e, V], threshold [b, e] or None, norm_weight, norm_bias [b, V] or None,
    a `Mixing` of s matrices, for each layer a stack of s matrices [b, I, O], and for each layer the anchor
    [b, I, O], the weights at which gradients are taken.
    """

    model: MLP
    objective: Objective

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        threshold: Tensor | None,
        norm: Sequence[Tensor | None],
        mixing: Mixing,
        stacks: Sequence[Sequence[Tensor]],
        anchors: Sequence[Tensor],
        second: bool = False,
    ) -> tuple[Tensor, list[list[Tensor]], Saved]:
        act, depth, sizes = ACTIVATIONS[self.model.activation], self.model.depth, self.model.sizes
        # Gradients at the anchors: each token's is the outer product of x_l and d_l.
        x, slope, curve, back = [self.input(k)], [], [], []
        for layer in range(depth - 1):
            value, first, other = act(x[layer] @ anchors[layer], second)
            x.append(self.input(value))
            slope.append(first)
            curve.append(other)
        last = x[-1] @ anchors[-1]
        d = [self.error(k, last, v, threshold, *norm)]
        for layer in range(depth - 1, 0, -1):
            back.insert(0, d[0] @ anchors[layer][:, : sizes[layer]].mT)
            d.insert(0, back[0] * slope[layer - 1])
        # Reads: every layer's product with W_t, which is never formed.
        y, u_slope, overlap, parts = [self.input(q)], [], [], []
        u = q
        for layer in range(depth):
            overlap.append(y[layer] @ x[layer].mT)
            u, products = _read(y[layer], stacks[layer], mixing.read)
            u = torch.baddbmm(u, mixing.gradients * overlap[layer], d[layer], alpha=-1)
            parts.append(products)
            if layer < depth - 1:
                value, first, _ = act(u, False)
                y.append(self.input(value))
                u_slope.append(first)
        out = self.output(q, u, *norm)
        new = [_write(*layer, mixing) for layer in zip(stacks, x, d, strict=True)]
        return out, new, Saved(x, slope, curve, back, last, d, y, u_slope, overlap, parts, u)

    def input(self, x: Tensor) -> Tensor:
        """A layer's input; a bias is the weight of a constant 1."""
        return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1) if self.model.bias else x

    def error(
        self,
        k: Tensor,
        z: Tensor,
        v: Tensor,
        threshold: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
    ) -> Tensor:
        """dobjective/dz of the last layer's output z."""
        prediction, backward = self._normed(weight, bias).head(k, z)
        return backward(self.objective.gradient(prediction, v, threshold))

    def output(self, q: Tensor, u: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """The prediction from the last layer's output u."""
        return self._normed(weight, bias).head(q, u)[0]

    def _normed(self, weight: Tensor | None, bias: Tensor | None) -> MLP:
        return (
            self.model
            if weight is None and bias is None
            else dataclasses.replace(self.model, norm_weight=weight, norm_bias=bias)
        )


class Saved(NamedTuple):
    """What the backward pass takes from the forward pass, lists over layers."""

    x: list[Tensor]  # inputs of the layers for the keys
    slope: list[Tensor]  # f'(z)
    curve: list[Tensor]  # f''(z)
    back: list[Tensor]  # d_{l+1} W_{l+1}^T
    last: Tensor  # the last layer's output for the keys
    d: list[Tensor]  # errors
    y: list[Tensor]  # inputs of the layers for the queries
    u_slope: list[Tensor]  # f'(u)
    overlap: list[Tensor]  # y x^T
    parts: list[list[Tensor]]  # y times each matrix of the stack, where the layer narrows
    u: Tensor  # the last layer's output for the queries


def _wide(y: Tensor, matrix: Tensor) -> bool:
    """Whether a layer widens; scalars per token go to the narrow side of a product, where they cost least."""
    return matrix.shape[-1] >= y.shape[-1]


def _read(y: Tensor, stack: Sequence[Tensor], read: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """sum_j read_j (y stack_j), and the products y stack_j where they were formed."""
    if _wide(y, stack[0]):
        u = (y * read[0]) @ stack[0]
        for matrix, share in zip(stack[1:], read[1:], strict=True):
            u = torch.baddbmm(u, y * share, matrix)
        return u, []
    products = [y @ matrix for matrix in stack]
    u = products[0] * read[0]
    for product, share in zip(products[1:], read[1:], strict=True):
        u = torch.addcmul(u, product, share)
    return u, products


def _write(stack: Sequence[Tensor], x: Tensor, d: Tensor, mixing: Mixing) -> list[Tensor]:
    """carry stack - (carried x)^T d."""
    new = []
    for row, share in zip(mixing.carry, mixing.carried, strict=True):
        total = _combined(row, stack)
        if share is not None:
            left, right = (x * share, d) if _wide(x, stack[0]) else (x, d * share)
            total = torch.baddbmm(total, left.mT, right, alpha=-1)
        new.append(total)
    return new


def _combined(row: Sequence[Tensor | None], stack: Sequence[Tensor]) -> Tensor:
    """sum_i row_i stack_i; None stands for 0."""
    total = None
    for share, matrix in zip(row, stack, strict=True):
        if share is not None:
            total = matrix * share if total is None else torch.addcmul(total, matrix, share)
    return torch.zeros_like(stack[0]) if total is None else total


class _Plain(NamedTuple):
    """Span with flat arguments and results."""

    span: Span
    s: int
    given: bool

    def __call__(self, *inputs: Any) -> tuple[Tensor, ...]:
        out, new, _ = self.span(*_unpack(self.span, self.s, self.given, inputs))
        return out, *itertools.chain(*new)


class _HandWritten(torch.autograd.Function):
    """Span with its derivative by hand, each product once. Autograd through Span is its witness, and gives the
    derivatives of the derivative.

    In the order of the forward pass, backwards; d_x is dloss/dx, and the errors d_l have the gradients e_l.
    """

    @staticmethod
    def forward(ctx: Any, span: Span, s: int, given: bool, *inputs: Any) -> tuple[Tensor, ...]:
        q, k, v, threshold, norm, mixing, stacks, anchors = _unpack(span, s, given, inputs)
        out, new, saved = span(q, k, v, threshold, norm, mixing, stacks, anchors, second=True)
        ctx.set_materialize_grads(False)
        leaves, ctx.structure = pytree.tree_flatten(saved)
        ctx.span, ctx.s, ctx.given, ctx.count = span, s, given, len(inputs)
        ctx.save_for_backward(*inputs, *leaves)
        return out, *itertools.chain(*new)

    @staticmethod
    @own_arithmetic
    def backward(ctx: Any, d_out: Tensor | None, *d_new: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        inputs, leaves = tensors[: ctx.count], tensors[ctx.count :]
        if torch.is_grad_enabled():
            plain = _Plain(ctx.span, ctx.s, ctx.given)
            return None, None, None, *again(plain, inputs, ctx.needs_input_grad[3:], (d_out, *d_new))
        span: Span = ctx.span
        depth, sizes, s = span.model.depth, span.model.sizes, ctx.s
        q, k, v, threshold, norm, mixing, stacks, anchors = _unpack(span, s, ctx.given, inputs)
        saved: Saved = pytree.tree_unflatten(leaves, ctx.structure)
        x, d, y, overlap = saved.x, saved.d, saved.y, saved.overlap
        if d_out is None:
            d_out = torch.zeros_like(span.output(q, saved.u, *norm))

        # Reads: u = sum_j read_j (y stack_j) - (gradients * overlap) d, overlap = y x^T.
        e: list[Tensor] = [torch.empty(0)] * depth
        d_x: list[Tensor] = [torch.empty(0)] * depth
        d_stack: list[list[Tensor]] = [[] for _ in range(depth)]
        d_read = [torch.zeros_like(share) for share in mixing.read]
        d_gradients = None
        d_q, d_u, *d_norm = _output_vjp(span, q, saved.u, norm, d_out)
        for layer in reversed(range(depth)):
            mixed = torch.bmm(d_u, d[layer].mT)
            d_gradients = (
                mixed * overlap[layer] if d_gradients is None else d_gradients.addcmul_(mixed, overlap[layer])
            )
            mixed.mul_(mixing.gradients).neg_()
            e[layer] = torch.bmm((mixing.gradients * overlap[layer]).mT, d_u).neg_()
            d_x[layer] = torch.bmm(mixed.mT, y[layer])
            d_y = torch.bmm(mixed, x[layer])
            wide = _wide(y[layer], stacks[layer][0])
            for j, (matrix, share) in enumerate(zip(stacks[layer], mixing.read, strict=True)):
                if wide:
                    product = torch.bmm(d_u, matrix.mT)
                    d_read[j] += (product * y[layer]).sum(-1, keepdim=True)
                    d_y.addcmul_(product, share)
                    d_stack[layer].append(torch.bmm((y[layer] * share).mT, d_u))
                else:
                    d_read[j] += (saved.parts[layer][j] * d_u).sum(-1, keepdim=True)
                    scaled = d_u * share
                    d_y.baddbmm_(scaled, matrix.mT)
                    d_stack[layer].append(torch.bmm(y[layer].mT, scaled))
            d_y = d_y[..., : sizes[layer]]
            if layer:
                d_u = d_y * saved.u_slope[layer - 1]
            else:
                d_q = d_y if d_q is None else d_q + d_y
        assert d_gradients is not None
        d_gradients.neg_()

        # New stacks: carry stack - (carried x)^T d.
        d_carried: list[Tensor | None] = [None] * s
        d_carry: list[list[Tensor | None]] = [[None] * s for _ in range(s)]
        for layer in range(depth):
            wide = _wide(x[layer], stacks[layer][0])
            for j in range(s):
                d_after, share = d_new[layer * s + j], mixing.carried[j]
                if d_after is None:
                    continue
                for i, kept in enumerate(mixing.carry[j]):
                    if kept is not None:
                        d_stack[layer][i].addcmul_(d_after, kept)
                        d_carry[j][i] = _sum(d_carry[j][i], _inner(d_after, stacks[layer][i]))
                if share is None:
                    continue
                if wide:
                    product = torch.bmm(d[layer], d_after.mT)
                    shares = (product * x[layer]).sum(-1, keepdim=True)
                    d_x[layer].addcmul_(product, share, value=-1)
                    e[layer].baddbmm_(x[layer] * share, d_after, alpha=-1)
                else:
                    product = torch.bmm(x[layer], d_after)
                    shares = (product * d[layer]).sum(-1, keepdim=True)
                    e[layer].addcmul_(product, share, value=-1)
                    d_x[layer].baddbmm_(d[layer] * share, d_after.mT, alpha=-1)
                d_carried[j] = _sum(d_carried[j], shares.neg_())

        # Errors, from the first layer to the last: d_l = back_l f'(z_l), back_l = d_{l+1} W_{l+1}^T.
        d_anchor = [torch.zeros_like(a) for a in anchors] if ctx.given else [each[0] for each in d_stack]
        d_z: list[Tensor] = []
        for layer in range(depth - 1):
            width = sizes[layer + 1]
            d_z.append(saved.curve[layer] * saved.back[layer] * e[layer])
            d_back = e[layer] * saved.slope[layer]
            e[layer + 1].baddbmm_(d_back, anchors[layer + 1][:, :width])
            d_anchor[layer + 1][:, :width].baddbmm_(d_back.mT, d[layer + 1])
        d_k, d_last, d_v, d_threshold, *more = _error_vjp(span, k, saved.last, v, threshold, norm, e[-1])
        d_norm = [_sum(a, b) for a, b in zip(d_norm, more, strict=True)]
        d_z.append(torch.zeros_like(saved.last) if d_last is None else d_last)

        # Outputs of the layers at the anchors, from the last to the first: z_l = x_l W_l, x_{l+1} = f(z_l).
        for layer in reversed(range(depth)):
            d_x[layer].baddbmm_(d_z[layer], anchors[layer].mT)
            d_anchor[layer].baddbmm_(x[layer].mT, d_z[layer])
            if layer:
                d_z[layer - 1].addcmul_(d_x[layer][..., : sizes[layer]], saved.slope[layer - 1])
        d_k = _sum(d_x[0][..., : sizes[0]], d_k)

        d_mixing = Mixing(tuple(d_read), d_gradients, tuple(map(tuple, d_carry)), tuple(d_carried)).flat()
        given = d_anchor if ctx.given else ()
        return (
            None,
            None,
            None,
            d_q,
            d_k,
            d_v,
            d_threshold,
            *d_norm,
            *d_mixing,
            *itertools.chain(*d_stack),
            *given,
        )


def _pack(
    q: Tensor, k: Tensor, v: Tensor, threshold: Any, norm: Any, mixing: Mixing, stacks: Any, anchors: Any
) -> list[Any]:
    """Span's arguments in one flat list; `_unpack` is the inverse. Anchors are left out where stacks start with them."""
    return [q, k, v, threshold, *norm, *mixing.flat(), *itertools.chain(*stacks), *anchors]


def _unpack(span: Span, s: int, given: bool, flat: Sequence[Any]) -> tuple[Any, ...]:
    depth, start = span.model.depth, 7 + 2 * s + s * s
    q, k, v, threshold = flat[:4]
    stacks = [flat[start + layer * s : start + (layer + 1) * s] for layer in range(depth)]
    anchors = flat[start + depth * s :] if given else [stack[0] for stack in stacks]
    return q, k, v, threshold, flat[4:6], Mixing.of(flat[6:start], s), stacks, anchors


def _output_vjp(
    span: Span, q: Tensor, u: Tensor, norm: Sequence[Tensor | None], gradient: Tensor
) -> list[Any]:
    """Gradients of (q, u, *norm) through `Span.output`."""
    if not span.model.norm:
        return [gradient if span.model.residual else None, gradient, None, None]
    return _vjp(span.output, [q, u, *norm], gradient)


def _error_vjp(
    span: Span, k: Tensor, z: Tensor, v: Tensor, threshold: Any, norm: Any, gradient: Tensor
) -> list[Any]:
    """Gradients of (k, z, v, threshold, *norm) through `Span.error`."""
    if not span.model.norm and isinstance(span.objective, L2):
        d_z = gradient * (2 * span.objective.factor)
        return [d_z if span.model.residual else None, d_z, -d_z, None, None, None]
    return _vjp(span.error, [k, z, v, threshold, *norm], gradient)


def _vjp(function: Any, inputs: list[Tensor | None], gradient: Tensor) -> list[Tensor | None]:
    """Gradients of the inputs of a small function, by autograd on its own."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in inputs]
    some = [leaf for leaf in leaves if leaf is not None]
    with torch.enable_grad():
        out = function(*leaves)
    found = iter(torch.autograd.grad(out, some, gradient, allow_unused=True))
    return [None if leaf is None else next(found) for leaf in leaves]


def _sum(a: Tensor | None, b: Tensor | None) -> Any:
    """a + b, where None stands for 0."""
    return b if a is None else a if b is None else a + b


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the products of all entries, [b, I, O] -> [b, 1, 1]."""
    return (a * b).sum((1, 2), keepdim=True)


def _mixings(
    sizes: list[int], state: MemoryState, gates: Gates, scale: Tensor | None, chunk: int
) -> list[Mixing]:
    """One Mixing per span; spans of one length that all end their chunk, or all do not, are computed together."""
    kind = state.weights["0"].dtype
    window = None if gates.window is None else since_start(gates.window, state.position)
    parts = {
        "rate": gates.rate,
        "decay": gates.decay,
        "momentum": gates.momentum if "momentum" in state.slots else None,
        "window": window,
        "scale": scale,
    }
    parts = {name: x.to(kind).flatten(0, 1) for name, x in parts.items() if isinstance(x, Tensor)}
    stops = itertools.accumulate(sizes)
    kinds = [(size, (state.position + stop) % chunk == 0) for size, stop in zip(sizes, stops, strict=True)]
    found: list[Mixing] = []
    start = 0
    for (size, ends), same in itertools.groupby(kinds):
        count = len(list(same))
        stop = start + count * size
        cut = {name: x[:, start:stop].unflatten(1, (count, size)) for name, x in parts.items()}
        if scale is None:
            band = banded(cut["window"]) if "window" in cut else None
            together = titans(cut["rate"], cut["decay"], cut.get("momentum"), band)
        else:
            together = averaged(cut["rate"], cut["scale"], ends)
        found += together.unbind()
        start = stop
    return found


def _matrices(model: MLP, weights: Weights) -> list[Tensor]:
    """One matrix [b, I, O] per layer, the bias as its last row."""
    found = []
    for layer in range(model.depth):
        matrix = weights[str(layer)].flatten(0, 1)
        if model.bias:
            matrix = torch.cat([matrix, weights[f"{layer}.bias"].flatten(0, 1)[:, None]], 1)
        found.append(matrix)
    return found


def _named(model: MLP, matrices: list[Tensor], batch: int) -> Weights:
    """The inverse of `_matrices`, [B, H, ...]."""
    weights: Weights = {}
    for layer, matrix in enumerate(matrices):
        matrix = matrix.unflatten(0, (batch, -1))
        weights[str(layer)] = matrix[:, :, : model.sizes[layer]]
        if model.bias:
            weights[f"{layer}.bias"] = matrix[:, :, -1]
    return weights
