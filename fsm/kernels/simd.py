"""Sixteen numbers at once inside numba kernels: vectors that become AVX-512, AVX2 or NEON
registers.

A loop that a compiler may or may not turn into vector instructions is no foundation for a
rasteriser, and compilers leave 512-bit registers unused by default. So vectors are values here: ``f
= load(a, i) * 0.5 + fill(x)``. LLVM has such types; numba only needs to be told. Indices are not
checked and negative ones do not wrap around.

``simd_types.py`` says which operators the vectors have. All functions work inside kernels only.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fsm.kernels.simd_types import (
    F32,
    I1,
    I32,
    I64,
    LANES,
    LLVM,
    LOOSE,
    Floats,
    Ints,
    broadcast,
    to_vector,
)

# 2^f on [-1/2, 1/2], coefficients of f^0, f^1, ...: relative error 7.5e-8 (least squares iterated
# to the minimax).
_EXP2 = (1.0000000717, 0.69314696706, 0.24022119724, 0.055507132735, 0.0096755413344)
_EXP2 += (0.001327647199,)
_LEAST_EXPONENT, _ROUNDER = -126.0, 1.5 * 2.0**23


def _emitted(function: Callable[..., Any]) -> Any:
    """numba gives the function its first argument; type checkers would ask the caller for it."""
    return intrinsic(function)


def _element(context, builder, array_type, array, index):
    """Pointer to element ``index`` of a contiguous array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


@_emitted
def load(typingctx, array, index):
    """16 neighbours of a contiguous array, from ``index`` on."""
    kind = Floats if array.dtype == types.float32 else Ints

    def code(context, builder, sig, args):
        pointer = _element(context, builder, sig.args[0], args[0], args[1])
        return builder.load(builder.bitcast(pointer, LLVM[kind].as_pointer()), align=4)

    return kind(array, types.intp), code


@_emitted
def store(typingctx, array, index, vector):
    """Write 16 neighbours of a contiguous array, from ``index`` on."""

    def code(context, builder, sig, args):
        pointer = _element(context, builder, sig.args[0], args[0], args[1])
        builder.store(args[2], builder.bitcast(pointer, args[2].type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), code


@_emitted
def gathered(typingctx, array, start, indices):
    """16 elements of a contiguous float32 array: those at ``start`` plus each of 16 integers."""

    def code(context, builder, sig, args):
        first = builder.ptrtoint(_element(context, builder, sig.args[0], args[0], args[1]), I64)
        wide = ir.VectorType(I64, LANES)
        offsets = builder.mul(builder.sext(args[2], wide), ir.Constant(wide, [4] * LANES))
        kind = ir.VectorType(F32.as_pointer(), LANES)
        places = builder.inttoptr(builder.add(broadcast(builder, first), offsets), kind)
        mask, none = ir.VectorType(I1, LANES), ir.Constant(LLVM[Floats], [0.0] * LANES)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(LLVM[Floats], [kind, I32, mask, LLVM[Floats]]),
            "llvm.masked.gather.v16f32.v16p0",
        )
        return builder.call(
            function, [places, ir.Constant(I32, 4), ir.Constant(mask, [1] * LANES), none]
        )

    return Floats(array, types.intp, indices), code


def _every_other(first):
    """Every other of 32 neighbours of a contiguous array, from ``index + first`` on."""

    @_emitted
    def function(typingctx, array, index):
        def code(context, builder, sig, args):
            pointer = _element(context, builder, sig.args[0], args[0], args[1])
            kind = ir.VectorType(F32, 2 * LANES)
            both = builder.load(builder.bitcast(pointer, kind.as_pointer()), align=4)
            chosen = ir.Constant(LLVM[Ints], list(range(first, 2 * LANES, 2)))
            return builder.shuffle_vector(both, ir.Constant(kind, ir.Undefined), chosen)

        return Floats(array, types.intp), code

    return function


evens, odds = _every_other(0), _every_other(1)


@_emitted
def store_pairs(typingctx, array, index, a, b):
    """Write 16 pairs (a, b) to 32 neighbours of a contiguous array, from ``index`` on."""

    def code(context, builder, sig, args):
        kind = ir.VectorType(F32, 2 * LANES)
        order = [i // 2 + LANES * (i % 2) for i in range(2 * LANES)]
        places = ir.Constant(ir.VectorType(I32, 2 * LANES), order)
        pairs = builder.shuffle_vector(args[2], args[3], places)
        pointer = _element(context, builder, sig.args[0], args[0], args[1])
        builder.store(pairs, builder.bitcast(pointer, kind.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, a, b), code


@_emitted
def item(typingctx, array, index):
    """Element ``index`` of a contiguous array, without checks."""

    def code(context, builder, sig, args):
        return builder.load(_element(context, builder, sig.args[0], args[0], args[1]))

    return array.dtype(array, types.intp), code


@_emitted
def spread(typingctx, array, index):
    """16 times element ``index`` of a float32 array."""

    def code(context, builder, sig, args):
        return broadcast(
            builder, builder.load(_element(context, builder, sig.args[0], args[0], args[1]))
        )

    return Floats(array, types.intp), code


@_emitted
def fill(typingctx, value):
    """16 times a number: ``Floats`` of a float, ``Ints`` of an integer."""
    kind = Floats if isinstance(value, types.Float) else Ints

    def code(context, builder, sig, args):
        return to_vector(context, builder, kind, sig.args[0], args[0])

    return kind(value), code


def _constant(kind, values):
    @_emitted
    def constant(typingctx):
        def code(context, builder, sig, args):
            return ir.Constant(LLVM[kind], values)

        return kind(), code

    return constant


# pixel centres of a 4 x 4 block
block_x = _constant(Floats, [0.5 + i % 4 for i in range(LANES)])
block_y = _constant(Floats, [0.5 + i // 4 for i in range(LANES)])


lanes = _constant(Floats, [float(i) for i in range(LANES)])


@_emitted
def select(typingctx, mask, yes, no):
    """``yes`` where the mask is set, ``no`` elsewhere."""

    def code(context, builder, sig, args):
        return builder.select(*args)

    return yes(mask, yes, no), code


@_emitted
def any_of(typingctx, mask):
    """Whether any of the 16 is set."""

    def code(context, builder, sig, args):
        bits = builder.bitcast(args[0], ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(mask), code


@_emitted
def lanes_of(typingctx, mask):
    """The 16 booleans as the lowest bits of an int64."""

    def code(context, builder, sig, args):
        return builder.zext(builder.bitcast(args[0], ir.IntType(LANES)), I64)

    return types.int64(mask), code


def _by_llvm(name):
    """A function of 16 floats that LLVM knows."""
    symbol, kind = f"llvm.{name}.v16f32", ir.FunctionType(LLVM[Floats], [LLVM[Floats]])

    @_emitted
    def function(typingctx, vector):
        def code(context, builder, sig, args):
            known = cgutils.get_or_insert_function(builder.module, kind, symbol)
            return builder.call(known, args)

        return Floats(vector), code

    return function


floor, root, absolute = _by_llvm("floor"), _by_llvm("sqrt"), _by_llvm("fabs")


def _chosen(sign):
    """The one of two vectors (or a vector and a number), lane by lane, for which ``a sign b``
    holds, else b.
    """

    @_emitted
    def function(typingctx, a, b):
        def code(context, builder, sig, args):
            a, b = (
                to_vector(context, builder, Floats, t, v)
                for t, v in zip(sig.args, args, strict=True)
            )
            return builder.select(builder.fcmp_ordered(sign, a, b), a, b)

        return Floats(a, b), code

    return function


least, most = _chosen("<"), _chosen(">")


@_emitted
def whole(typingctx, vector):
    """16 floats as integers, rounded towards zero."""

    def code(context, builder, sig, args):
        return builder.fptosi(args[0], LLVM[Ints])

    return Ints(vector), code


@_emitted
def real(typingctx, vector):
    """16 integers as floats."""

    def code(context, builder, sig, args):
        return builder.sitofp(args[0], LLVM[Floats])

    return Floats(vector), code


@_emitted
def shifted(typingctx, vector, places):
    """The bits of 16 integers moved right by so many places (one number, or one for each), zeros
    from the left.
    """

    def code(context, builder, sig, args):
        return builder.lshr(args[0], to_vector(context, builder, Ints, sig.args[1], args[1]))

    return Ints(vector, places), code


def _halves_added(builder, a, b):
    """Sums of neighbouring pairs of ``a``, then of ``b``."""
    if a is None:
        return None
    second = ir.Constant(a.type, ir.Undefined) if b is None else b
    even, odd = (ir.Constant(LLVM[Ints], list(range(first, 2 * LANES, 2))) for first in (0, 1))
    return builder.fadd(
        builder.shuffle_vector(a, second, even),
        builder.shuffle_vector(a, second, odd),
        flags=LOOSE,
    )


@_emitted
def totals(typingctx, vectors):
    """Sums of a tuple of up to 16 vectors as the elements of one; those that are left over mean
    nothing.
    """

    def code(context, builder, sig, args):
        parts = [builder.extract_value(args[0], i) for i in range(sig.args[0].count)]
        parts += [None] * (LANES - len(parts))
        while len(parts) > 1:
            parts = [
                _halves_added(builder, a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)
            ]
        return parts[0]

    return Floats(vectors), code


@_emitted
def exp2(typingctx, vector):
    """2 to the power of 16 floats of at most 127, to 2e-7; what is below -126 counts as -126."""

    def code(context, builder, sig, args):
        def constant(value):
            return ir.Constant(LLVM[Floats], [value] * LANES)

        def fused(a, b, c):
            return builder.fadd(builder.fmul(a, b, flags=LOOSE), c, flags=LOOSE)

        x = builder.select(
            builder.fcmp_ordered(">", args[0], constant(_LEAST_EXPONENT)),
            args[0],
            constant(_LEAST_EXPONENT),
        )
        # Adding 1.5 · 2^23 rounds to an integer and leaves it in the lowest bits: no conversion
        # needed.
        shifted = builder.fadd(x, constant(_ROUNDER))
        f = builder.fsub(x, builder.fsub(shifted, constant(_ROUNDER)))
        square = builder.fmul(f, f, flags=LOOSE)
        low, middle, high = (
            fused(constant(_EXP2[i + 1]), f, constant(_EXP2[i])) for i in (0, 2, 4)
        )
        power = fused(fused(high, square, middle), square, low)
        exponent = builder.shl(
            builder.bitcast(shifted, LLVM[Ints]), ir.Constant(LLVM[Ints], [23] * LANES)
        )
        return builder.bitcast(
            builder.add(builder.bitcast(power, LLVM[Ints]), exponent), LLVM[Floats]
        )

    return Floats(vector), code


@_emitted
def trailing_zeros(typingctx, value):
    """Index of the lowest bit set in an int64; 64 if none is."""

    def code(context, builder, sig, args):
        return builder.cttz(args[0], ir.Constant(I1, 0))

    return types.int64(types.int64), code


@_emitted
def bits_set(typingctx, value):
    """How many bits of an int64 are set."""

    def code(context, builder, sig, args):
        return builder.ctpop(args[0])

    return types.int64(types.int64), code


@_emitted
def fetch_ahead(typingctx, array, index):
    """Ask the processor to have element ``index`` at hand soon."""

    def code(context, builder, sig, args):
        pointer = builder.bitcast(
            _element(context, builder, sig.args[0], args[0], args[1]), ir.IntType(8).as_pointer()
        )
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, *(ir.Constant(I32, v) for v in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, types.intp), code


@_emitted
def take_next(typingctx, counter):
    """Value of ``counter[0]`` before one is added to it, in one step for all threads."""

    def code(context, builder, sig, args):
        pointer = _element(context, builder, sig.args[0], args[0], ir.Constant(I64, 0))
        return builder.atomic_rmw("add", pointer, ir.Constant(I64, 1), "monotonic")

    return types.int64(counter), code
