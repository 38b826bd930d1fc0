"""Large-chunk test-time training: fast weights written chunk by chunk, held to an anchor by an
elastic prior.
"""

from fsm.ttt.elastic import ElasticConfig, record_pull_ratio, recording
from fsm.ttt.fast_weights import (
    FastWeightState,
    fast_weight_apply,
    fast_weight_gradient,
    initial_state,
    write_chunk,
)
from fsm.ttt.parallel import Group

__all__ = [
    "ElasticConfig",
    "FastWeightState",
    "Group",
    "fast_weight_apply",
    "fast_weight_gradient",
    "initial_state",
    "record_pull_ratio",
    "recording",
    "write_chunk",
]
