"""The golden file that ships: random weights and inputs, and what a plain network makes of them.

The network is written out here in float64, view by view and head by head: rays, tokens, attention,
the fast-weight rule of ``fsm.ttt.reference``, MLP, decoder. It shares no layer with the package, so
that ``fsm doctor --golden`` compares the fast path with a plain one. docs/golden.md says what that
shows and what it does not.

    python -m benchmarks.make_golden fsm/adapters/golden.safetensors
"""

import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from fsm.ttt import ElasticConfig
from fsm.ttt.reference import f, write_sequence

DIM, HEAD_DIM, TTT_HEADS, EXPANSION, MLP_RATIO, LAYERS, PATCH = 32, 16, 2, 2, 2, 2, 4
SIZE, INPUTS, TARGETS, VIEWS_PER_CHUNK, MAX_FRAMES, BASE_LR = 16, 4, 2, 2, 128, 0.01
ELASTIC = ElasticConfig("si", "streaming-ema", lam=0.5, alpha=0.5, beta=0.5)

Weights = dict[str, Tensor]
Tokens = Float[Tensor, "v t d"]


def random_weights(g: torch.Generator) -> Weights:
    """A state dict under released names; shapes as in docs/golden.md."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g) / (2 * math.sqrt(shape[-1]))

    def near_one(n: int) -> Tensor:
        return 1 + 0.1 * torch.randn(n, generator=g)

    width, hidden = DIM // TTT_HEADS, DIM // TTT_HEADS * EXPANSION
    weights = {
        "input_linear.weight": normal(DIM, 13 * PATCH**2),
        "input_layernorm.weight": near_one(DIM),
        "image_token_decoder.0.weight": near_one(DIM),
        "image_token_decoder.1.weight": normal(3 * PATCH**2, DIM),
    }
    for i in range(LAYERS):
        attention, memory, mlp = (f"blocks.{i}.module_list.{k}" for k in range(3))
        weights |= {f"{m}.ln.weight": near_one(DIM) for m in (attention, memory, mlp)}
        weights |= {f"{attention}.f.{n}.weight": near_one(HEAD_DIM) for n in ("q_norm", "k_norm")}
        weights |= {f"{m}.f.to_qkv.weight": normal(3 * DIM, DIM) for m in (attention, memory)}
        weights |= {f"{m}.f.c_proj.weight": normal(DIM, DIM) for m in (attention, memory)}
        weights |= {
            f"{memory}.f.lr_fc.weight": normal(3 * TTT_HEADS, DIM),
            f"{memory}.f.lr_fc.bias": 0.1 * torch.randn(3 * TTT_HEADS, generator=g),
            f"{memory}.f.o_norm.weight": near_one(width),
            f"{memory}.f.w0": normal(TTT_HEADS, width, hidden),
            f"{memory}.f.w1": normal(TTT_HEADS, hidden, width),
            f"{memory}.f.w2": normal(TTT_HEADS, width, hidden),
            f"{mlp}.f.c_fc.weight": normal(MLP_RATIO * DIM, DIM),
            f"{mlp}.f.c_proj.weight": normal(DIM, MLP_RATIO * DIM),
        }
    return weights


def random_views(g: torch.Generator, v: int) -> dict[str, Tensor]:
    """Cameras c2w [1 v 4 4] about the origin, fxfycxcy [1 v 4] and frame_time [1 v]."""
    axes = torch.linalg.qr(torch.randn(1, v, 3, 3, generator=g).double())[0]
    axes = axes * torch.linalg.det(axes)[..., None, None]
    c2w = torch.eye(4).repeat(1, v, 1, 1)
    c2w[..., :3, :3], c2w[..., :3, 3] = axes.float(), torch.randn(1, v, 3, generator=g) / 2
    intrinsics = torch.tensor([18.0, 17.0, SIZE / 2, SIZE / 2 - 1]).repeat(1, v, 1)
    time = torch.randperm(MAX_FRAMES, generator=g)[:v].sort().values[None].float()
    return {"c2w": c2w, "fxfycxcy": intrinsics, "frame_time": time}


def tokens(w: Weights, views: dict[str, Tensor], image: Float[Tensor, "v 3 h w"] | None) -> Tokens:
    """Patches of rays, colours and time, embedded, pixel by pixel."""
    rows = []
    for i, (c2w, (fx, fy, cx, cy), frame) in enumerate(
        zip(views["c2w"][0], views["fxfycxcy"][0], views["frame_time"][0], strict=True)
    ):
        pixels = torch.zeros(SIZE, SIZE, 13, dtype=torch.float64)
        for y in range(SIZE):
            for x in range(SIZE):
                ray = torch.stack([(x + 0.5 - cx) / fx, (y + 0.5 - cy) / fy, torch.ones_like(fx)])
                d = c2w[:3, :3] @ ray
                d, o = d / d.norm(), c2w[:3, 3]
                rgb = torch.zeros_like(d) if image is None else image[i, :, y, x] * 2 - 1
                time = frame[None] / (MAX_FRAMES - 1) * 2 - 1
                pixels[y, x] = torch.cat([o, d, torch.linalg.cross(o, d), rgb, time])
        rows += [
            pixels[y : y + PATCH, x : x + PATCH].flatten()
            for y in range(0, SIZE, PATCH)
            for x in range(0, SIZE, PATCH)
        ]
    x = torch.stack(rows).view(len(views["c2w"][0]), -1, 13 * PATCH**2)
    return norm(x @ w["input_linear.weight"].T, w["input_layernorm.weight"])


def norm(x: Float[Tensor, "*n d"], scale: Float[Tensor, " d"]) -> Float[Tensor, "*n d"]:
    """Layer norm without bias."""
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * scale


def rms(x: Float[Tensor, "*n d"], scale: Float[Tensor, " d"]) -> Float[Tensor, "*n d"]:
    """Root-mean-square norm."""
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * scale


def attend(w: Weights, at: str, x: Tokens) -> Tokens:
    """First residual: attention among the tokens of each view."""
    out = []
    for view in norm(x, w[f"{at}.ln.weight"]):
        q, k, v = (view @ w[f"{at}.f.to_qkv.weight"].T).chunk(3, -1)
        heads = []
        for a in range(0, DIM, HEAD_DIM):
            part = slice(a, a + HEAD_DIM)
            qh = rms(q[:, part], w[f"{at}.f.q_norm.weight"])
            kh = rms(k[:, part], w[f"{at}.f.k_norm.weight"])
            heads.append(torch.softmax(qh @ kh.T / math.sqrt(HEAD_DIM), -1) @ v[:, part])
        out.append(torch.cat(heads, -1) @ w[f"{at}.f.c_proj.weight"].T)
    return x + torch.stack(out)


def unit(x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """Directions of keys and queries."""
    return x / (x.norm(dim=-1, keepdim=True) + 1e-5)


def write(w: Weights, at: str, x: Tokens) -> list[dict[str, Tensor]]:
    """Fast weights of every head after all chunks of attended tokens."""
    width, memory = DIM // TTT_HEADS, []
    offset = math.log(math.expm1(BASE_LR))
    for h in range(TTT_HEADS):
        chunks = []
        for start in range(0, len(x), VIEWS_PER_CHUNK):
            chunk = norm(x[start : start + VIEWS_PER_CHUNK].flatten(0, 1), w[f"{at}.ln.weight"])
            _, k, v = F.silu(chunk @ w[f"{at}.f.to_qkv.weight"].T).chunk(3, -1)
            part = slice(h * width, (h + 1) * width)
            raw = chunk @ w[f"{at}.f.lr_fc.weight"].T + w[f"{at}.f.lr_fc.bias"] + offset
            gate, down, up = F.softplus(raw).view(-1, 3, TTT_HEADS)[..., h].unbind(-1)
            chunks.append((unit(k[:, part]), v[:, part], {"gate": gate, "up": up, "down": down}))
        initial = {"gate": "w0", "up": "w2", "down": "w1"}
        start_weights = {n: w[f"{at}.f.{k}"][h].clone() for n, k in initial.items()}
        for matrix in start_weights.values():
            matrix.requires_grad_()
        after = write_sequence(start_weights, chunks, ELASTIC)
        memory.append({n: m.detach() for n, m in after.items()})
    return memory


def read(w: Weights, block: str, memory: list[dict[str, Tensor]], x: Tokens) -> Tokens:
    """Second and third residual: read the fast weights, then the MLP."""
    at, mlp, width = f"{block}.1", f"{block}.2", DIM // TTT_HEADS
    q = F.silu(norm(x, w[f"{at}.ln.weight"]) @ w[f"{at}.f.to_qkv.weight"][:DIM].T)
    heads = []
    for h, fast in enumerate(memory):
        answer = f(fast, unit(q[..., h * width : (h + 1) * width]).flatten(0, 1))
        heads.append(rms(answer, w[f"{at}.f.o_norm.weight"]).view(*x.shape[:2], width))
    x = x + torch.cat(heads, -1) @ w[f"{at}.f.c_proj.weight"].T
    hidden = F.gelu(norm(x, w[f"{mlp}.ln.weight"]) @ w[f"{mlp}.f.c_fc.weight"].T)
    return x + hidden @ w[f"{mlp}.f.c_proj.weight"].T


def render(
    w: Weights,
    image: Float[Tensor, "v 3 h w"],
    inputs: dict[str, Tensor],
    targets: dict[str, Tensor],
) -> Float[Tensor, "t 3 h w"]:
    """All layers over inputs and targets; patches of colours put back in place."""
    x, y = tokens(w, inputs, image), tokens(w, targets, None)
    for i in range(LAYERS):
        block = f"blocks.{i}.module_list"
        x, y = attend(w, f"{block}.0", x), attend(w, f"{block}.0", y)
        memory = write(w, f"{block}.1", x)
        x, y = read(w, block, memory, x), read(w, block, memory, y)
    decoded = norm(y, w["image_token_decoder.0.weight"]) @ w["image_token_decoder.1.weight"].T
    patches = torch.sigmoid(decoded).view(len(y), SIZE // PATCH, SIZE // PATCH, PATCH, PATCH, 3)
    return patches.permute(0, 5, 1, 3, 2, 4).reshape(len(y), 3, SIZE, SIZE)


def golden(seed: int = 1) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of the file."""
    g = torch.Generator().manual_seed(seed)
    weights = random_weights(g)
    inputs, targets = random_views(g, INPUTS), random_views(g, TARGETS)
    image = torch.rand(1, INPUTS, 3, SIZE, SIZE, generator=g)
    w, ins, outs = ({k: t.double() for k, t in d.items()} for d in (weights, inputs, targets))
    rgb = render(w, image[0].double(), ins, outs)
    tensors = {f"model.{k}": t for k, t in weights.items()} | {"input.image": image}
    tensors |= {f"input.{k}": t for k, t in inputs.items()}
    tensors |= {f"target.{k}": t for k, t in targets.items()}
    tensors["output.rgb"] = rgb.float()[None]
    config = {
        "newton_schulz_dtype": "fp32",
        "chunk_tokens": VIEWS_PER_CHUNK * (SIZE // PATCH) ** 2,
        "max_frames": MAX_FRAMES,
        "elastic": {"importance": "si", "anchor": "streaming-ema", "lam": 0.5}
        | {"alpha": 0.5, "beta": 0.5, "initial_importance": 0.0},
    }
    made_by = "benchmarks/make_golden.py: a plain float64 network"
    return tensors, {"config": json.dumps(config), "made_by": made_by}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("output", type=Path, help="file to write")
    path = parser.parse_args().output
    tensors, header = golden()
    save_file({k: t.contiguous() for k, t in tensors.items()}, path, header)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
