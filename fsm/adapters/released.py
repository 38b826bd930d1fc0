"""State dicts of released FSM-LVSM, FSM-LRM and LaCT-NVS checkpoints, renamed into ours, strictly.

Their keys (fsm.md lists them, the files define them):
``blocks.{i}.module_list.{0|1|2}.{ln|f}.*``, ``input_linear``, ``input_layernorm``,
``image_token_decoder.{0,1}``; fast weights w0 = gate, w2 = up, w1 = down, each [heads in out]. A
Gaussian decoder is told by its 20 values per pixel. Its quaternions follow 4D-GS (arXiv
2310.10642): a vector is t + zi + yj + xk there and t + xi + yj + zk here, which a fixed exchange
of output channels makes up for (``_our_quaternions``).
"""

import math
import re
from pathlib import Path

import torch
from torch import Tensor

from fsm.blocks import BlockConfig
from fsm.checkpoint import load_weights
from fsm.encoder import CHANNELS, EncoderConfig
from fsm.errors import InputError
from fsm.files import read_plain
from fsm.model import FSM, ModelConfig
from fsm.renderers.heads.lrm import CHANNELS as GAUSSIAN_PARTS
from fsm.renderers.heads.lrm import LrmHeadConfig
from fsm.renderers.heads.lvsm import LvsmHeadConfig
from fsm.ttt import ElasticConfig

GAUSSIAN_CHANNELS = sum(GAUSSIAN_PARTS)
WRAPPERS = ("module", "_orig_mod", "_checkpoint_wrapped_module")
TOP = {
    "input_linear.weight": "encoder.embed.weight",
    "input_layernorm.weight": "encoder.embed_norm.weight",
    "image_token_decoder.0.weight": "head.norm.weight",
    "image_token_decoder.1.weight": "head.linear.weight",
}
BLOCK = {
    "0.ln.weight": "attention_norm.weight",
    "0.f.to_qkv.weight": "attention.to_qkv.weight",
    "0.f.q_norm.weight": "attention.q_norm.weight",
    "0.f.k_norm.weight": "attention.k_norm.weight",
    "0.f.c_proj.weight": "attention.out.weight",
    "1.ln.weight": "ttt_norm.weight",
    "1.f.to_qkv.weight": "ttt.to_qkv.weight",
    "1.f.lr_fc.weight": "ttt.to_rates.weight",
    "1.f.lr_fc.bias": "ttt.to_rates.bias",
    "1.f.o_norm.weight": "ttt.o_norm.weight",
    "1.f.c_proj.weight": "ttt.out.weight",
    "2.ln.weight": "mlp_norm.weight",
    "2.f.c_fc.weight": "mlp.up.weight",
    "2.f.c_proj.weight": "mlp.out.weight",
}
LAYOUT_BY_CHANNELS = {13: "fsm13", 12: "lact12", 10: "paper10"}
LEFT, RIGHT = range(11, 15), range(15, 19)  # channels of the Gaussian decoder, w first


def unwrapped(key: str) -> str:
    """A key without the prefixes that distributed, compiled and checkpointed modules add, wherever
    they stand.
    """
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def convert_state_dict(released: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Our keys and shapes from a released state dict; unknown and missing keys raise
    ``InputError``.
    """
    names = [unwrapped(k) for k in released]
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise InputError(
            f"{where} names the tensor {twice!r} twice, with and without a wrapper; keep "
            "one of them."
        )
    released = dict(zip(names, released.values(), strict=True))
    out: dict[str, Tensor] = {}
    fast: dict[str, dict[str, Tensor]] = {}
    for key, tensor in released.items():
        if key in TOP:
            out[TOP[key]] = tensor
            continue
        match = re.fullmatch(r"blocks\.(\d+)\.module_list\.(.+)", key)
        if match and match[2] in BLOCK:
            out[f"encoder.blocks.{match[1]}.{BLOCK[match[2]]}"] = tensor
        elif match and match[2] in ("1.f.w0", "1.f.w1", "1.f.w2"):
            fast.setdefault(match[1], {})[match[2][-2:]] = tensor
        else:
            raise InputError(
                f"{where} holds the key {key!r}, which no released FSM or LaCT-NVS model has."
            )
    for i, w in fast.items():
        if set(w) != {"w0", "w1", "w2"}:
            raise InputError(
                f"{where} lacks fast weights of block {i}: found {', '.join(sorted(w))}."
            )
        shapes = [tuple(w[n].shape) for n in ("w0", "w2", "w1")]
        if len(shapes[0]) != 3 or not shapes[0] == shapes[1] == (
            *shapes[2][:-2],
            *shapes[2][:-3:-1],
        ):
            raise InputError(
                f"{where}: fast weights of block {i} have shapes {shapes} (w0, w2, w1) "
                "that do not go together."
            )
        out[f"encoder.blocks.{i}.ttt.initial"] = torch.stack(
            [w["w0"], w["w2"], w["w1"].transpose(-1, -2)], dim=1
        )
    if "head.linear.weight" in out and _gaussian_patch(out["head.linear.weight"]):
        out["head.linear.weight"] = _our_quaternions(out["head.linear.weight"])
    return out


def _gaussian_patch(decoder: Tensor) -> int:
    """Patch side of a Gaussian decoder, 0 for a pixel decoder: 20 p² rows are never 3 q²."""
    side = math.isqrt(decoder.shape[0] // GAUSSIAN_CHANNELS) if decoder.ndim == 2 else 0
    return side if side and side**2 * GAUSSIAN_CHANNELS == decoder.shape[0] else 0


def _our_quaternions(decoder: Tensor) -> Tensor:
    """Rows of a released Gaussian decoder such that its quaternions mean the same rotation on our
    axes.

    Exchanging the first and third imaginary unit reverses products, so left and right change places
    and are conjugated.
    """
    rows = decoder.unflatten(0, (-1, GAUSSIAN_CHANNELS))
    out = rows.clone()
    sign = decoder.new_tensor([1.0, -1.0, -1.0, -1.0])[:, None]
    for mine, theirs in ((LEFT, RIGHT), (RIGHT, LEFT)):
        w, i, j, k = theirs
        out[:, list(mine)] = rows[:, [w, k, j, i]] * sign
    return out.flatten(0, 1)


def infer_config(
    weights: dict[str, Tensor],
    where: str,
    *,
    attention_head_dim: int | None = None,
    chunk_tokens: int = 2048,
    elastic: ElasticConfig | None = None,
    ns_dtype: str = "bfloat16",
) -> ModelConfig:
    """The model whose weights these are (our keys); chunking and the elastic prior leave no trace
    in weights and are given.
    """
    try:
        initial = weights["encoder.blocks.0.ttt.initial"]
        embed, pixels = weights["encoder.embed.weight"], weights["head.linear.weight"]
        mlp, head_norm = (
            weights[f"encoder.blocks.0.{n}.weight"] for n in ("mlp.up", "attention.q_norm")
        )
    except KeyError as error:
        raise InputError(
            f"{where} lacks {error} after renaming; it is not an FSM-LVSM, FSM-LRM or "
            "LaCT-NVS checkpoint."
        ) from error
    if (
        not min((*embed.shape, *pixels.shape, *initial.shape), default=0)
        or embed.ndim != 2
        or not mlp.ndim
    ):
        raise InputError(
            f"{where} has an embedding {tuple(embed.shape)} or decoder "
            f"{tuple(pixels.shape)} of no model."
        )
    dim, flat = embed.shape
    gaussians = _gaussian_patch(pixels)
    patch = gaussians or max(1, round((pixels.shape[0] / 3) ** 0.5))
    head_dim = attention_head_dim or head_norm.numel()
    layout = ({10: "lrm10"} if gaussians else LAYOUT_BY_CHANNELS).get(flat // patch**2)
    if layout is None or flat != CHANNELS[layout] * patch**2:
        raise InputError(
            f"{where} reads {flat} values per {patch}x{patch} patch, which is none of the "
            "known layouts."
        )
    numbers = {int(k.split(".")[2]) for k in weights if k.startswith("encoder.blocks.")}
    layers = len(numbers)
    if numbers != set(range(layers)):
        raise InputError(
            f"{where}: blocks are not numbered 0 to {layers - 1}, found {max(numbers)}; "
            "some are missing."
        )
    block = BlockConfig(
        dim=dim,
        attention_head_dim=head_dim,
        ttt_heads=initial.shape[0],
        expansion=initial.shape[3] // initial.shape[2],
        mlp_ratio=mlp.shape[0] // dim,
        ns_dtype="float32" if ns_dtype == "float32" else "bfloat16",
        elastic=elastic,
    )
    encoder = EncoderConfig(block, layers, patch, layout, chunk_tokens)  # pyright: ignore[reportArgumentType]
    return ModelConfig(encoder, LrmHeadConfig("lrm", "fsm") if gaussians else LvsmHeadConfig())


def load_released(path: Path | str) -> dict[str, Tensor]:
    """The state dict inside a released ``.pth``, unpickled with ``weights_only=True`` and never
    otherwise.
    """
    payload = read_plain(path)
    state = payload.get("model", payload) if isinstance(payload, dict) else None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise InputError(f"{path} does not hold a state dict (top level or under 'model').")
    return state


def model_from_released(
    path: Path | str, *, chunk_tokens: int = 2048, elastic: ElasticConfig | None = None
) -> FSM:
    """A ready model from a released checkpoint file."""
    weights = convert_state_dict(load_released(path), str(path))
    model = FSM(infer_config(weights, str(path), chunk_tokens=chunk_tokens, elastic=elastic))
    load_weights(model, weights, str(path))
    return model.eval()
