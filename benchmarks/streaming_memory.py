"""Peak resident memory of one LaCET layer (with its projections) while it streams 131,072 tokens,
float32.

Order of the released schedule: write every chunk, then read with every chunk. The residual stream
and the outputs are kept as chunks, as the encoder keeps them. Peak is the process's ``ru_maxrss``
less what was resident before the residual stream was made, so torch itself and the layer's
parameters are not counted; every case is a process of its own.

It is compared with what has to exist (d width, n tokens, c of a chunk, four bytes a float):

    residual stream     n d
    output              n d
    activations         20 d c    q, k, v and the rates' input (4), gate, up, sigmoid, SiLU and
    three products of width 2 d
                                  (14), unit keys and the answer (2): one chunk of an eager layer
                                  without tiles
    state               9 d h     fast weights, anchor, importance: three d x h matrices each, h = 2
    d

    python -m benchmarks.streaming_memory
"""

import resource
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.common import Verdicts, parser, start
from fsm.blocks import BlockConfig, LaCETLayer

MIB = 2**20
TOKENS, DIM, CHUNKS = 131_072, 512, (8192, 2048)


def resident_now() -> int:
    """Resident size of this process, bytes (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def resident_peak() -> int:
    """Largest resident size of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def needed(chunk: int) -> dict[str, int]:
    """Bytes of what has to exist, by name."""
    hidden = BlockConfig().expansion * DIM
    floats = {
        "residual": TOKENS * DIM,
        "output": TOKENS * DIM,
        "activations": 20 * DIM * chunk,
        "state": 9 * DIM * hidden,
    }
    return {name: 4 * count for name, count in floats.items()}


@torch.no_grad()
def stream(chunk: int) -> int:
    """Bytes the process grew by at its peak."""
    torch.set_num_threads(1)
    layer = LaCETLayer(BlockConfig(dim=DIM))
    warm = torch.randn(1, 64, DIM)  # libraries allocate on first use
    layer.read(layer.write(layer.initial_state(1), warm), warm)
    before = resident_now()
    residual = [torch.randn(1, chunk, DIM) for _ in range(TOKENS // chunk)]
    state = layer.initial_state(1)
    for x in residual:
        state = layer.write(state, x)
    output = [layer.read(state, x) for x in residual]
    assert sum(o.shape[1] for o in output) == TOKENS
    return resident_peak() - before


def main() -> None:
    """Run every case in its own process; print the table and the verdicts."""
    options = parser(__doc__)
    options.add_argument("--case", type=int, help="chunk of the one case to run here; prints bytes")
    args = options.parse_args()
    if args.case:
        print(stream(args.case))
        return
    start(
        "Streaming memory of one LaCET layer",
        d=DIM,
        hidden=2 * DIM,
        tokens=TOKENS,
        format=torch.float32,
    )
    print(
        f"\n{'chunk':>7} {'residual':>9} {'output':>7} {'activations':>12} {'state':>6} "
        f"{'needed':>7} {'peak':>7}   (MiB)"
    )
    verdicts, ratios = Verdicts(), {}
    for chunk in CHUNKS:
        parts = needed(chunk)
        command = [sys.executable, "-m", "benchmarks.streaming_memory", "--case", str(chunk)]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        total = sum(parts.values())
        r, o, a, s = (round(b / MIB) for b in parts.values())
        print(
            f"{chunk:>7} {r:>9} {o:>7} {a:>12} {s:>6} {total / MIB:>7.0f} {peak / MIB:>7.0f}",
            flush=True,
        )
        ratios[chunk] = peak / total
    print()
    for chunk, ratio in ratios.items():
        verdicts.check(f"peak over what has to exist, chunk {chunk}", ratio, 1.2)
    verdicts.close()


if __name__ == "__main__":
    main()
