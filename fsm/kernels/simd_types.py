"""The vector types of ``simd`` and their operators: what numba is told about them.

``Floats`` (16 float32), ``Ints`` (16 int32) and ``Mask`` (16 booleans) have + - * / (floats),
comparisons, & and |, ^ (ints); the other operand may be a scalar.
"""

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.datamodel.models import PrimitiveModel
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin, register_model

LANES = 16
F32, I1, I32, I64 = ir.FloatType(), ir.IntType(1), ir.IntType(32), ir.IntType(64)
# fuse multiply and add, sum in any order, divide by a reciprocal
LOOSE = ("contract", "reassoc", "arcp", "nsz")


class FloatsType(types.Type):
    """Type of 16 float32."""


class IntsType(types.Type):
    """Type of 16 int32."""


class MaskType(types.Type):
    """Type of 16 booleans."""


Floats, Ints, Mask = FloatsType("Floats16"), IntsType("Ints16"), MaskType("Mask16")
LLVM = {
    Floats: ir.VectorType(F32, LANES),
    Ints: ir.VectorType(I32, LANES),
    Mask: ir.VectorType(I1, LANES),
}


class _VectorModel(PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, LLVM[fe_type])


for _kind in (FloatsType, IntsType, MaskType):
    register_model(_kind)(_VectorModel)


def broadcast(builder, value):
    """A vector of 16 times ``value``."""
    kind = ir.VectorType(value.type, LANES)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(I32, LANES), [0] * LANES))


def to_vector(context, builder, kind, found, value):
    """``value`` as a vector of ``kind``: scalars are spread."""
    if found == kind:
        return value
    return broadcast(
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
            *(to_vector(context, builder, kind, t, v) for t, v in zip(sig.args, args, strict=True)),
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
            return getattr(builder, float_op)(a, b, flags=LOOSE)
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
