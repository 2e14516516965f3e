"""The Triton kernels of `kernels`; imported only where Triton is there."""

import triton
import triton.language as tl


@triton.jit
def rectify_rows(delta, negated, lines, out, length, channels, BLOCK: tl.constexpr):
    """One block of one row of one frame."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < length
    first = tl.load(lines + row) * channels
    change = tl.load(delta + row * length + place, mask=inside, other=0.0).to(tl.float32)
    below = tl.load(negated + first + place, mask=inside, other=0.0).to(tl.float32)
    changed = tl.maximum(change, below) - tl.maximum(below, 0.0)
    tl.store(out + row * length + place, changed.to(out.dtype.element_ty), mask=inside)
