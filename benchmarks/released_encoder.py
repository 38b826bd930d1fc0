"""This encoder against a plain re-implementation of the released one's structure, at equal weights.

The released structure (FSM, arXiv 2604.07350; ``docs/method.md``): inputs and targets are one
sequence, encoded again for every call. Each layer attends within every image and computes q, k and
v of all tokens. It writes chunk by chunk: three separate matrices, hidden values of the whole
chunk, a Newton-Schulz call per matrix, float32 state, elastic prior with state changed in place,
norms restored. All tokens then read the final weights and pass the MLP, in the last layer too.

Both sides share their parameters, attention kernel, Newton-Schulz format and products in float32.
The largest difference of the targets' tokens is printed; neither side decodes a picture. A further
call reads the memory that the first one made; the released structure has none.

    python -m benchmarks.released_encoder --profile    # with the share of the products in the time
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import Verdicts, alternate, medians, paired, parser, print_gemm_types, start
from benchmarks.render_cost import arc
from fsm.blocks import Block, LaCETLayer, WindowAttention
from fsm.encoder import Encoder, EncoderConfig
from fsm.ttt import ElasticConfig
from fsm.views import Views

SHAPES = ((2, 8), (4, 8), (2, 32), (4, 32))  # layers, input views
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu")
Matrices = list[Tensor]
"""Gate [h d m], up [h d m] and down [h m d]."""


class ReleasedEncoder:
    """The released structure on the parameters of ``encoder``."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.chunk = encoder.config.chunk_tokens
        self.initial = []  # contiguous, as three separate parameters are
        for block in encoder.blocks:
            gate, up, down_t = block.ttt.initial.unbind(1)
            self.initial.append([m.contiguous() for m in (gate, up, down_t.transpose(1, 2))])

    def __call__(self, inputs: Views, targets: Views) -> Tensor:
        """The targets' tokens [1 v t d] after the last layer."""
        x = torch.cat([self.encoder.tokenize(views) for views in (inputs, targets)], dim=1)
        _, views, t, d = x.shape
        for block, initial in zip(self.encoder.blocks, self.initial, strict=True):
            x = self._layer(block, initial, x.view(views, t, d), len(inputs) * t)
        return x.view(1, views, t, d)[:, len(inputs) :]

    def _layer(self, block: Block, initial: Matrices, x: Tensor, inputs: int) -> Tensor:
        x = x + attention(block.attention, block.attention_norm(x))
        x = x.reshape(1, -1, x.shape[-1])
        x = x + self._fast_weights(block.ttt, initial, block.ttt_norm(x), inputs)
        return x + block.mlp.out(F.gelu(block.mlp.up(block.mlp_norm(x))))

    def _fast_weights(self, layer: LaCETLayer, initial: Matrices, x: Tensor, inputs: int) -> Tensor:
        elastic, heads = layer.config.elastic, layer.config.ttt_heads
        assert elastic is not None
        assert elastic == ElasticConfig()
        q, k, v = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1)
            for part in F.silu(layer.to_qkv(x)).chunk(3, dim=-1)
        )
        q, k = (part / (part.norm(dim=-1, keepdim=True) + 1e-5) for part in (q, k))
        rates = F.softplus(layer.to_rates(x) + layer.rate_offset)
        rates = rates.view(-1, 3, heads).permute(1, 2, 0)[..., None]  # gate, down, up
        weights = [m.clone() for m in initial]
        norms = [m.norm(dim=1, keepdim=True) for m in initial]
        anchors, importance = [m.clone() for m in initial], [torch.zeros_like(m) for m in initial]
        for at in range(0, inputs, self.chunk):
            cut = slice(at, min(at + self.chunk, inputs))
            gradients = chunk_gradients(weights, k[:, cut], v[:, cut], rates[:, :, cut])
            for i, gradient in enumerate(gradients):
                update = newton_schulz(gradient, layer.config.ns_steps, layer.ns_dtype)
                weights[i] = weights[i] + update
                drift = weights[i] - anchors[i]
                importance[i].mul_(elastic.alpha).add_((1 - elastic.alpha) * (update * drift).abs())
                weights[i] = weights[i] - elastic.lam * importance[i] * drift
                now = weights[i].norm(dim=1, keepdim=True)
                weights[i] = weights[i] / (now + 1e-5) * norms[i]
                anchors[i].mul_(elastic.beta).add_((1 - elastic.beta) * weights[i])
        gate, up, down = weights
        o = layer.o_norm((F.silu(q @ gate) * (q @ up)) @ down)
        return layer.out(o.transpose(0, 1).reshape(x.shape))


def attention(layer: WindowAttention, x: Tensor) -> Tensor:
    """Softmax attention within each image [v t d]."""
    v, t, d = x.shape
    q, k, value = (
        part.view(v, t, layer.heads, -1).transpose(1, 2) for part in layer.to_qkv(x).chunk(3, -1)
    )
    o = F.scaled_dot_product_attention(layer.q_norm(q), layer.k_norm(k), value)
    return layer.out(o.transpose(1, 2).reshape(v, t, d))


def chunk_gradients(weights: Matrices, k: Tensor, v: Tensor, rates: Tensor) -> Matrices:
    """Descent directions of one chunk for gate, up and down."""
    gate, up, down = weights
    a, u = k @ gate, k @ up
    hidden, back = F.silu(a) * u, v @ down.transpose(1, 2)
    sigma = torch.sigmoid(a)
    of_gate = back * u * sigma * (1 + a * (1 - sigma))
    of_up = back * F.silu(a)
    return [
        (k * rates[0]).transpose(1, 2) @ of_gate,
        (k * rates[2]).transpose(1, 2) @ of_up,
        (hidden * rates[1]).transpose(1, 2) @ v,
    ]


def newton_schulz(gradient: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """X ← aX + (bA + cA²)X with A = XXᵀ on the shorter side, from X = G / ‖G‖."""
    x = gradient.to(dtype)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.transpose(1, 2) if tall else x).float()


def difference(encoder: Encoder, cases: dict[str, Callable[[], Tensor]]) -> float:
    """Largest difference of the two, where bfloat16 does not amplify the order of sums."""
    kept = encoder.blocks[0].ttt.ns_dtype
    for block in encoder.blocks:
        block.ttt.ns_dtype = torch.float32
    ours, released = (run() for run in cases.values())
    for block in encoder.blocks:
        block.ttt.ns_dtype = kept
    found = (ours - released).abs().max().item()
    assert found < 1e-3 * ours.abs().max(), f"the two differ by {found:.1e}"
    return found


def share_of_products(run: Callable[[], object]) -> float:
    """Matrix products' part of the CPU time of one call."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    return sum(times.get(f"aten::{name}", 0.0) for name in PRODUCTS) / sum(times.values())


@torch.no_grad()
def main() -> None:
    """Print the table and the verdicts."""
    options = parser(__doc__)
    options.set_defaults(repeats=3)
    options.add_argument("--targets", type=int, default=1, help="target views of a call")
    options.add_argument("--profile", action="store_true", help="print the share of the products")
    args = options.parse_args()
    block = EncoderConfig().block
    start(
        "Encoder against the released structure",
        d=block.dim,
        size="128x128",
        chunk=EncoderConfig().chunk_tokens,
        targets=args.targets,
        weights="float32",
        newton_schulz=block.ns_dtype,
    )
    verdicts, targets = Verdicts(), arc(args.targets, 0.5, rgb=False).batched()
    for layers, views in SHAPES:
        encoder = Encoder(EncoderConfig(layers=layers)).eval()
        inputs, plain = arc(views).batched(), ReleasedEncoder(encoder)
        cases = {
            "ours": lambda e=encoder, i=inputs: e.query(e.update(e.empty(1), i), targets),
            "released": lambda r=plain, i=inputs: r(i, targets),
        }
        print(f"\n{layers} layers, {views} views")
        if (layers, views) == SHAPES[0]:
            for run in cases.values():
                print_gemm_types(run, torch.float32, allow=["float64", "bfloat16"])
        print(f"  largest difference {difference(encoder, cases):.1e} (Newton-Schulz in float32)")
        if args.profile:
            for name, run in cases.items():
                print(f"  products' share of {name}: {share_of_products(run):.0%}")
        memory = encoder.finish(encoder.update(encoder.empty(1), inputs))
        seconds = alternate(
            {**cases, "again": lambda e=encoder, m=memory: e.query(m, targets)}, args.repeats
        )
        times, ratio = medians(seconds), paired(seconds["released"], seconds["ours"])
        again = paired(seconds["released"], seconds["again"])
        print(
            f"  {times['ours']:.2f} s against {times['released']:.2f} s; every further call "
            f"{times['again']:.2f} s, {again:.0f}x faster"
        )
        verdicts.check(f"{layers} layers, {views} views: times faster", ratio, 1.5, at_least=True)
    verdicts.close()


if __name__ == "__main__":
    main()
