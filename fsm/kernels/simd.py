"""Sixteen numbers at once inside numba kernels: vectors that become AVX-512, AVX2 or NEON
registers.

A loop that a compiler may or may not turn into vector instructions is no foundation for a
rasteriser, and compilers leave 512-bit registers unused by default. So vectors are values here: ``f
= load(a, i) * 0.5 + fill(x)``. LLVM has such types; numba only needs to be told. Indices are not
checked and negative ones do not wrap around.

``Floats`` (16 float32), ``Ints`` (16 int32) and ``Mask`` (16 booleans) have + - * / (floats),
comparisons, & and |, ^ (ints); the other operand may be a scalar. All functions work inside
kernels only.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel.models import PrimitiveModel
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_model

LANES = 16
_F32, _I1, _I32, _I64 = ir.FloatType(), ir.IntType(1), ir.IntType(32), ir.IntType(64)
# fuse multiply and add, sum in any order, divide by a reciprocal
_LOOSE = ("contract", "reassoc", "arcp", "nsz")
# 2^f on [-1/2, 1/2], coefficients of f^0, f^1, ...: relative error 7.5e-8 (least squares iterated
# to the minimax).
_EXP2 = (
    1.0000000717,
    0.69314696706,
    0.24022119724,
    0.055507132735,
    0.0096755413344,
    0.001327647199,
)
_LEAST_EXPONENT = -126.0
_ROUNDER = 1.5 * 2.0**23


class FloatsType(types.Type):
    """Type of 16 float32."""


class IntsType(types.Type):
    """Type of 16 int32."""


class MaskType(types.Type):
    """Type of 16 booleans."""


Floats, Ints, Mask = FloatsType("Floats16"), IntsType("Ints16"), MaskType("Mask16")
_LLVM = {
    Floats: ir.VectorType(_F32, LANES),
    Ints: ir.VectorType(_I32, LANES),
    Mask: ir.VectorType(_I1, LANES),
}


class _VectorModel(PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, _LLVM[fe_type])


for _kind in (FloatsType, IntsType, MaskType):
    register_model(_kind)(_VectorModel)


def _spread(builder, value):
    """A vector of 16 times ``value``."""
    kind = ir.VectorType(value.type, LANES)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(
        first, first, ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
    )


def _to_vector(context, builder, kind, found, value):
    """``value`` as a vector of ``kind``: scalars are spread."""
    if found == kind:
        return value
    return _spread(
        builder,
        context.cast(builder, value, found, types.float32 if kind == Floats else types.int32),
    )


def _define(op, kinds, result, emit):
    """Give ``op`` a meaning for two operands of which at least one is of ``kinds``."""

    def typed(self, args, kws):
        for kind in kinds:
            if kind in args and all(
                a == kind or isinstance(a, (types.Float, types.Integer)) for a in args
            ):
                return signature(result or kind, *args)
        return None

    templates: Any = infer_global(op)
    templates(type(f"Vector_{op.__name__}", (AbstractTemplate,), {"generic": typed, "key": op}))

    def lower(context, builder, sig, args):
        kind = next(a for a in sig.args if a in kinds)
        return emit(
            builder,
            kind,
            *(
                _to_vector(context, builder, kind, t, v)
                for t, v in zip(sig.args, args, strict=True)
            ),
        )

    for kind in kinds:
        for left, right in (
            (kind, kind),
            (kind, types.Float),
            (types.Float, kind),
            (kind, types.Integer),
            (types.Integer, kind),
        ):
            lower_builtin(op, left, right)(lower)


def _arithmetic(float_op, int_op):
    def emit(builder, kind, a, b):
        if kind == Floats:
            return getattr(builder, float_op)(a, b, flags=_LOOSE)
        return getattr(builder, int_op)(a, b)

    return emit


def _comparison(sign):
    def emit(builder, kind, a, b):
        return (
            builder.fcmp_ordered(sign, a, b) if kind == Floats else builder.icmp_signed(sign, a, b)
        )

    return emit


for _op, _float, _int in (
    (operator.add, "fadd", "add"),
    (operator.sub, "fsub", "sub"),
    (operator.mul, "fmul", "mul"),
):
    _define(_op, (Floats, Ints), None, _arithmetic(_float, _int))
_define(operator.truediv, (Floats,), None, _arithmetic("fdiv", ""))
for _op, _sign in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
):
    _define(_op, (Floats, Ints), Mask, _comparison(_sign))
_define(operator.and_, (Mask, Ints), None, lambda builder, _, a, b: builder.and_(a, b))
_define(operator.or_, (Mask, Ints), None, lambda builder, _, a, b: builder.or_(a, b))
_define(operator.xor, (Ints,), None, lambda builder, _, a, b: builder.xor(a, b))


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
        return builder.load(builder.bitcast(pointer, _LLVM[kind].as_pointer()), align=4)

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
def item(typingctx, array, index):
    """Element ``index`` of a contiguous array, without checks."""

    def code(context, builder, sig, args):
        return builder.load(_element(context, builder, sig.args[0], args[0], args[1]))

    return array.dtype(array, types.intp), code


@_emitted
def spread(typingctx, array, index):
    """16 times element ``index`` of a float32 array."""

    def code(context, builder, sig, args):
        return _spread(
            builder, builder.load(_element(context, builder, sig.args[0], args[0], args[1]))
        )

    return Floats(array, types.intp), code


@_emitted
def fill(typingctx, value):
    """16 times a number: ``Floats`` of a float, ``Ints`` of an integer."""
    kind = Floats if isinstance(value, types.Float) else Ints

    def code(context, builder, sig, args):
        return _to_vector(context, builder, kind, sig.args[0], args[0])

    return kind(value), code


def _constant(kind, values):
    @_emitted
    def constant(typingctx):
        def code(context, builder, sig, args):
            return ir.Constant(_LLVM[kind], values)

        return kind(), code

    return constant


block_x = _constant(Floats, [0.5 + i % 4 for i in range(LANES)])  # pixel centres of a 4 x 4 block
block_y = _constant(Floats, [0.5 + i // 4 for i in range(LANES)])


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
        return builder.zext(builder.bitcast(args[0], ir.IntType(LANES)), _I64)

    return types.int64(mask), code


def _by_llvm(name):
    """A function of 16 floats that LLVM knows."""

    @_emitted
    def function(typingctx, vector):
        def code(context, builder, sig, args):
            kind = ir.FunctionType(_LLVM[Floats], [_LLVM[Floats]])
            return builder.call(
                cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v16f32"), args
            )

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
                _to_vector(context, builder, Floats, t, v)
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
        return builder.fptosi(args[0], _LLVM[Ints])

    return Ints(vector), code


@_emitted
def real(typingctx, vector):
    """16 integers as floats."""

    def code(context, builder, sig, args):
        return builder.sitofp(args[0], _LLVM[Floats])

    return Floats(vector), code


@_emitted
def shifted(typingctx, vector, places):
    """The bits of 16 integers moved right by so many places (one number, or one for each), zeros
    from the left.
    """

    def code(context, builder, sig, args):
        return builder.lshr(args[0], _to_vector(context, builder, Ints, sig.args[1], args[1]))

    return Ints(vector, places), code


def _halves_added(builder, a, b):
    """Sums of neighbouring pairs of ``a``, then of ``b``."""
    if a is None:
        return None
    second = ir.Constant(a.type, ir.Undefined) if b is None else b
    even, odd = (ir.Constant(_LLVM[Ints], list(range(first, 2 * LANES, 2))) for first in (0, 1))
    return builder.fadd(
        builder.shuffle_vector(a, second, even),
        builder.shuffle_vector(a, second, odd),
        flags=_LOOSE,
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
            return ir.Constant(_LLVM[Floats], [value] * LANES)

        def fused(a, b, c):
            return builder.fadd(builder.fmul(a, b, flags=_LOOSE), c, flags=_LOOSE)

        x = builder.select(
            builder.fcmp_ordered(">", args[0], constant(_LEAST_EXPONENT)),
            args[0],
            constant(_LEAST_EXPONENT),
        )
        # Adding 1.5 · 2^23 rounds to an integer and leaves it in the lowest bits: no conversion
        # needed.
        shifted = builder.fadd(x, constant(_ROUNDER))
        f = builder.fsub(x, builder.fsub(shifted, constant(_ROUNDER)))
        square = builder.fmul(f, f, flags=_LOOSE)
        low, middle, high = (
            fused(constant(_EXP2[i + 1]), f, constant(_EXP2[i])) for i in (0, 2, 4)
        )
        power = fused(fused(high, square, middle), square, low)
        exponent = builder.shl(
            builder.bitcast(shifted, _LLVM[Ints]), ir.Constant(_LLVM[Ints], [23] * LANES)
        )
        return builder.bitcast(
            builder.add(builder.bitcast(power, _LLVM[Ints]), exponent), _LLVM[Floats]
        )

    return Floats(vector), code


@_emitted
def trailing_zeros(typingctx, value):
    """Index of the lowest bit set in an int64; 64 if none is."""

    def code(context, builder, sig, args):
        return builder.cttz(args[0], ir.Constant(_I1, 0))

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
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, *(ir.Constant(_I32, v) for v in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, types.intp), code


@_emitted
def take_next(typingctx, counter):
    """Value of ``counter[0]`` before one is added to it, in one step for all threads."""

    def code(context, builder, sig, args):
        pointer = _element(context, builder, sig.args[0], args[0], ir.Constant(_I64, 0))
        return builder.atomic_rmw("add", pointer, ir.Constant(_I64, 1), "monotonic")

    return types.int64(counter), code
