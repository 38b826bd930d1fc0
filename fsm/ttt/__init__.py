"""Large-chunk test-time training: fast weights written chunk by chunk, held to an anchor by an
elastic prior.
"""

from fsm.ttt.elastic import ElasticConfig
from fsm.ttt.fast_weights import (
    FastWeightState,
    fast_weight_apply,
    fast_weight_gradient,
    fast_weight_step,
    initial_state,
    write_chunk,
)

__all__ = [
    "ElasticConfig",
    "FastWeightState",
    "fast_weight_apply",
    "fast_weight_gradient",
    "fast_weight_step",
    "initial_state",
    "write_chunk",
]
