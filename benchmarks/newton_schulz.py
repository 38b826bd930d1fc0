"""Newton-Schulz stacked over the three matrices against the plain twin matrix by matrix, and
torch.compile against eager.

``compile`` is an option (``TrainConfig.compile``): what it gains per chunk has to pay for its
compilation, also printed.

    python -m benchmarks.newton_schulz
"""

import time
import warnings

import torch
import torch.nn.functional as F

from benchmarks.common import alternate, medians, paired, parser, start
from fsm.ttt import ElasticConfig, initial_state, write_chunk
from fsm.ttt.fast_weights import orthogonalise
from fsm.ttt.reference import newton_schulz

STEPS = 5


def stacking(dim: int, heads: int, repeats: int) -> None:
    """One table row per number format."""
    gradient = torch.randn(1, heads, 3, dim, 2 * dim)
    matrices = list(gradient.flatten(0, 2))
    for dtype in (torch.float32, torch.bfloat16):
        seconds = alternate(
            {
                "stacked": lambda dtype=dtype: orthogonalise(gradient, STEPS, dtype),
                "plain": lambda dtype=dtype: [
                    newton_schulz(m.to(dtype), STEPS).float() for m in matrices
                ],
            },
            repeats,
        )
        times, gain = medians(seconds), paired(seconds["plain"], seconds["stacked"])
        name = str(dtype).removeprefix("torch.")
        print(
            f"{dim:>5} {heads:>5} {name:>9} {1e3 * times['plain']:>9.1f} "
            f"{1e3 * times['stacked']:>11.1f} {gain:>6.2f}x",
            flush=True,
        )


def compiling(dim: int, tokens: int, dtype: torch.dtype, repeats: int, backward: bool) -> None:
    """One table row: a chunk written eagerly and compiled, with its gradient where ``backward``."""
    initial = (torch.randn(1, 3, dim, 2 * dim) * dim**-0.5).requires_grad_(backward)
    k = F.normalize(torch.randn(1, 1, tokens, dim), dim=-1).requires_grad_(backward)
    v = torch.randn(1, 1, tokens, dim).requires_grad_(backward)
    rates = torch.rand(1, 1, tokens, 3) * 0.02
    elastic = ElasticConfig()
    torch.compiler.reset()
    torch.compiler.config.force_disable_caches = True  # what the first user pays
    compiled = torch.compile(write_chunk, dynamic=False)

    def run(function):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            state = initial_state(initial, 1, elastic)
            weights = function(
                state, k, v, rates, elastic=elastic, ns_steps=STEPS, ns_dtype=torch.bfloat16
            ).weights
        if backward:
            torch.autograd.grad(weights.sum(), (initial, k, v))

    began = time.process_time()
    run(compiled)
    compile_seconds = time.process_time() - began
    seconds = alternate(
        {"eager": lambda: run(write_chunk), "compiled": lambda: run(compiled)}, repeats
    )
    times, gain = medians(seconds), paired(seconds["eager"], seconds["compiled"])
    name = str(dtype).removeprefix("torch.")
    what = "write+backward" if backward else "write"
    print(
        f"{dim:>5} {tokens:>6} {name:>9} {what:>15} {1e3 * times['eager']:>9.1f} "
        f"{1e3 * times['compiled']:>12.1f}"
        f" {gain:>6.2f}x {compile_seconds:>11.0f}",
        flush=True,
    )


def main() -> None:
    """Print both tables; there is no target."""
    args = parser(__doc__).parse_args()
    warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")
    start("Newton-Schulz and torch.compile", iterations=STEPS, batch=1)
    print(f"\n{'d':>5} {'heads':>5} {'format':>9} {'plain ms':>9} {'stacked ms':>11} {'gain':>7}")
    with torch.no_grad():
        for dim, heads in ((64, 4), (256, 1), (512, 1)):
            stacking(dim, heads, args.repeats)
    print(
        f"\n{'d':>5} {'tokens':>6} {'format':>9} {'':>15} {'eager ms':>9} "
        f"{'compiled ms':>12} {'gain':>7} {'compile s':>11}"
    )
    for dtype in (torch.float32, torch.bfloat16):
        for backward in (False, True):
            with torch.set_grad_enabled(backward):
                compiling(256, 2048, dtype, args.repeats, backward)


if __name__ == "__main__":
    main()
