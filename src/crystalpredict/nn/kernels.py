"""Triton kernels of attention with directions: one launch for the frames of a layer and one for its moments [M8].

In torch these are hundreds of short operations, and the CPU has to wait for the number of tied edges. The kernels
compute the same as `frames_of` and `direction_moments` of nn/frames.py, which are the reference.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc, index, operator, assignment"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from crystalpredict.nn.terms import AXIS_WEIGHTS, COLLINEAR_COSINE, MIN_ONE_MINUS_COSINE, TIE_TOLERANCE

COLUMNS = 64  # edges of an atom that a kernel sums over at a time


def can_run(device: torch.device) -> bool:
    """Return whether a kernel can be compiled and run on a device."""
    try:
        nothing = torch.zeros(1, 1, 3, device=device)
        frames_of(nothing[..., :1], nothing[..., :1], nothing)
    except Exception:  # of Triton, its compiler or CUDA: in any case torch is used instead
        return False
    return True


@torch.no_grad()
def frames_of(logits: Tensor, weights: Tensor, directions: Tensor) -> Tensor:
    """Return the same as `frames_of` of nn/frames.py, in single precision, without blocking the CPU."""
    atoms, heads, width = logits.shape
    frames = logits.new_empty(atoms, heads, 3, 3)
    logits, weights, directions = logits.contiguous(), weights.contiguous(), directions.contiguous()
    block = triton.next_power_of_2(width)
    _frames[(atoms * heads,)](
        logits, weights, directions, frames, heads, width, TIE_TOLERANCE, MIN_ONE_MINUS_COSINE,
        COLLINEAR_COSINE, *AXIS_WEIGHTS,
        BLOCK=block, num_warps=_warps(block),
    )  # fmt: skip
    return frames


def direction_moments(weights: Tensor, directions: Tensor, frames: Tensor, coarse: int, fine: int) -> Tensor:
    """Return the same as `direction_moments` of nn/frames.py, in single precision."""
    found: Tensor = _Moments.apply(weights.contiguous(), directions.contiguous(), frames.contiguous(), coarse, fine)
    return found


class _Moments(torch.autograd.Function):
    """Moments (R, H, 3 I J), with the gradient of the weights (R, H, M)."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, weights: Tensor, directions: Tensor, frames: Tensor, coarse: int, fine: int
    ) -> Tensor:
        ctx.save_for_backward(directions, frames)
        ctx.coarse, ctx.fine = coarse, fine  # type: ignore[attr-defined]
        atoms, heads, width = weights.shape
        found = weights.new_empty(atoms, heads, 3 * coarse * fine)
        _moments[(atoms * heads, 3)](
            weights, directions, frames, found, heads, width, coarse, fine,
            COLUMNS=COLUMNS, ROOM=triton.next_power_of_2(coarse * fine), num_warps=1,
        )  # fmt: skip
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        directions, frames = ctx.saved_tensors  # type: ignore[attr-defined]
        atoms, heads = frames.shape[:2]
        width = directions.shape[1]
        found = gradient.new_empty(atoms, heads, width)
        _moments_backward[(atoms * heads, triton.cdiv(width, COLUMNS))](
            gradient.contiguous(), directions, frames, found, heads, width, ctx.coarse, ctx.fine,  # type: ignore[attr-defined]
            COLUMNS=COLUMNS, num_warps=1,
        )  # fmt: skip
        return found, None, None, None, None


def _warps(block: int) -> int:
    """Return the warps (of 32 threads) for a row: eight numbers for each thread, at most four warps."""
    return min(max(block // 256, 1), 4)


@triton.jit
def _edges(directions, atom, width, column):
    """Return the directions of some edges of an atom, 0 for missing edges, and which edges exist."""
    edges = directions + (atom * width + column) * 3
    inside = column < width
    x = tl.load(edges, inside, 0.0)
    y = tl.load(edges + 1, inside, 0.0)
    z = tl.load(edges + 2, inside, 0.0)
    return x, y, z, (x != 0.0) | (y != 0.0) | (z != 0.0)


@triton.jit
def _frames(  # noqa: PLR0913  kernels take pointers and numbers, no objects
    logits, weights, directions, frames, heads, width, tie, least_sine, collinear, mix_1, mix_2, mix_3,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the frame of one atom and head: the best of all pairs of tied first and tied second edges."""
    query = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    x, y, z, there = _edges(directions, query // heads, width, column)
    first = tl.load(logits + query * width + column, there, -float("inf"))
    weight = tl.load(weights + query * width + column, column < width, 0.0)
    left = there & (first >= tl.max(first, 0) - tie)
    best = -float("inf")
    ux, uy, uz, vx, vy, vz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for _ in range(tl.sum(left.to(tl.int32), 0)):
        picked = column == tl.min(tl.where(left, column, BLOCK), 0)
        left = left & (picked == 0)
        ax = tl.sum(tl.where(picked, x, 0.0), 0)
        ay = tl.sum(tl.where(picked, y, 0.0), 0)
        az = tl.sum(tl.where(picked, z, 0.0), 0)
        cosine = tl.abs(x * ax + y * ay + z * az)
        second = tl.where(cosine < collinear, tl.log(tl.maximum(1.0 - cosine, least_sine)) + first, -float("inf"))
        right = (second > -float("inf")) & (second >= tl.max(second, 0) - tie)
        for _ in range(tl.maximum(tl.sum(right.to(tl.int32), 0), 1)):  # without any, the second axis is 0
            picked = column == tl.min(tl.where(right, column, BLOCK), 0)
            right = right & (picked == 0)
            bx = tl.sum(tl.where(picked, x, 0.0), 0)
            by = tl.sum(tl.where(picked, y, 0.0), 0)
            bz = tl.sum(tl.where(picked, z, 0.0), 0)
            along = ax * bx + ay * by + az * bz
            bx -= along * ax
            by -= along * ay
            bz -= along * az
            length = tl.maximum(tl.sqrt(bx * bx + by * by + bz * bz), 1e-3)
            bx /= length
            by /= length
            bz /= length
            mx = mix_1 * ax + mix_2 * bx + mix_3 * (ay * bz - az * by)
            my = mix_1 * ay + mix_2 * by + mix_3 * (az * bx - ax * bz)
            mz = mix_1 * az + mix_2 * bz + mix_3 * (ax * by - ay * bx)
            pull = tl.sum(tl.exp(x * mx + y * my + z * mz) * weight, 0)
            better = pull > best
            best = tl.where(better, pull, best)
            ux = tl.where(better, ax, ux)
            uy = tl.where(better, ay, uy)
            uz = tl.where(better, az, uz)
            vx = tl.where(better, bx, vx)
            vy = tl.where(better, by, vy)
            vz = tl.where(better, bz, vz)
    out = frames + query * 9
    tl.store(out, ux)
    tl.store(out + 1, uy)
    tl.store(out + 2, uz)
    tl.store(out + 3, vx)
    tl.store(out + 4, vy)
    tl.store(out + 5, vz)
    tl.store(out + 6, uy * vz - uz * vy)
    tl.store(out + 7, uz * vx - ux * vz)
    tl.store(out + 8, ux * vy - uy * vx)


@triton.jit
def _cosines(directions, frames, atom, query, axis, width, column):
    """Return the cosines of an atom's edges with an axis of a frame, and which edges exist."""
    x, y, z, there = _edges(directions, atom, width, column)
    row = frames + query * 9 + axis * 3
    cosine = x * tl.load(row) + y * tl.load(row + 1) + z * tl.load(row + 2)
    return cosine, there


@triton.jit
def _polynomial(cosine, degree):
    """Return the Chebyshev polynomial T_degree of each cosine; the recurrence starts with T_-1 = T_1."""
    before, now = cosine, tl.full(cosine.shape, 1.0, tl.float32)
    for _ in range(degree):
        before, now = now, 2.0 * cosine * now - before
    return now


@triton.jit
def _moments(  # noqa: PLR0913
    weights, directions, frames, found, heads, width, coarse, fine, COLUMNS: tl.constexpr, ROOM: tl.constexpr
):  # fmt: skip
    """Write sum_e p_e T_(i J)(c_e) T_j(c_e) for all i, j of one atom, head and axis."""
    query, axis = tl.program_id(0).to(tl.int64), tl.program_id(1)
    term = tl.arange(0, ROOM)
    sums = tl.zeros([ROOM], tl.float32)
    for start in range(0, width, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        cosine, there = _cosines(directions, frames, query // heads, query, axis, width, column)
        if tl.max(there.to(tl.int32), 0) > 0:
            step = _polynomial(cosine, fine)
            high = tl.load(weights + query * width + column, there, 0.0)
            high_before = step * high
            for i in range(coarse):
                low_before, low = cosine, tl.full(cosine.shape, 1.0, tl.float32)
                for j in range(fine):
                    sums += tl.where(term == i * fine + j, tl.sum(high * low, 0), 0.0)
                    low_before, low = low, 2.0 * cosine * low - low_before
                high_before, high = high, 2.0 * step * high - high_before
    terms = coarse * fine
    tl.store(found + (query * 3 + axis) * terms + term, sums, term < terms)


@triton.jit
def _moments_backward(  # noqa: PLR0913
    gradient, directions, frames, found, heads, width, coarse, fine, COLUMNS: tl.constexpr
):  # fmt: skip
    """Write sum_aij g_aij T_(i J)(c_ea) T_j(c_ea) for some edges of one atom and head."""
    query = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], tl.float32)
    for axis in range(3):
        cosine, there = _cosines(directions, frames, query // heads, query, axis, width, column)
        if tl.max(there.to(tl.int32), 0) > 0:
            step = _polynomial(cosine, fine)
            high = tl.where(there, 1.0, 0.0)
            high_before = step * high
            own = gradient + (query * 3 + axis) * coarse * fine
            for i in range(coarse):
                low_before, low = cosine, tl.full(cosine.shape, 1.0, tl.float32)
                slope = tl.zeros([COLUMNS], tl.float32)
                for j in range(fine):
                    slope += tl.load(own + i * fine + j) * low
                    low_before, low = low, 2.0 * cosine * low - low_before
                total += slope * high
                high_before, high = high, 2.0 * step * high - high_before
    tl.store(found + query * width + column, total, column < width)
