"""Golden files: weights, inputs and outputs of another implementation, rebuilt through the adapter
and compared.

The one that ships is of a plain network of ours (``benchmarks/make_golden.py``, docs/golden.md).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from fsm.adapters.released import convert_state_dict, infer_config
from fsm.checkpoint import load_weights
from fsm.errors import InputError
from fsm.files import read_safetensors
from fsm.model import FSM
from fsm.ttt import ElasticConfig
from fsm.views import SceneFrame, Views

TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}
SHIPPED = Path(__file__).with_name("golden.safetensors")


@dataclass(frozen=True)
class GoldenResult:
    """How far our output lies from the stored one."""

    path: Path
    newton_schulz: str
    error: float
    """Largest absolute difference of any output value."""
    tolerance: float

    @property
    def passed(self) -> bool:
        """Within tolerance."""
        return self.error <= self.tolerance


@torch.no_grad()
def check_golden(path: Path | str) -> GoldenResult:
    """Rebuild the model of a golden file, run it on the stored input and compare with the stored
    output.
    """
    path = Path(path)
    tensors = read_safetensors(path)
    with safe_open(path, framework="pt") as handle:
        meta = handle.metadata() or {}
    if "config" not in meta or "output.rgb" not in tensors:
        raise InputError(
            f"{path} is not a golden file: it lacks the header entry 'config' or the "
            "tensor 'output.rgb'."
        )
    try:
        config = json.loads(meta["config"])
        kind = config["newton_schulz_dtype"]
        tolerance = TOLERANCE[kind]
        model, inputs, targets = _rebuild(path, config, tensors)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} is not a golden file: its header or tensors lack something ({error})."
        ) from error
    error = (model(inputs, targets).rgb - tensors["output.rgb"]).abs().max().item()
    return GoldenResult(path, kind, error, tolerance)


def _rebuild(
    path: Path, config: dict, tensors: dict[str, torch.Tensor]
) -> tuple[FSM, Views, Views]:
    released = {k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")}
    weights = convert_state_dict(released, str(path))
    elastic = config["elastic"] and ElasticConfig(**config["elastic"])
    ns_dtype = {"fp32": "float32", "bf16": "bfloat16"}[config["newton_schulz_dtype"]]
    model = FSM(
        infer_config(
            weights,
            str(path),
            chunk_tokens=config["chunk_tokens"],
            elastic=elastic,
            ns_dtype=ns_dtype,
        )
    )
    load_weights(model, weights, str(path))
    image = tensors["input.image"]
    frame = SceneFrame.identity((len(image),), time_span=config["max_frames"] - 1.0)

    def views(prefix: str, rgb: torch.Tensor | None) -> Views:
        c2w, intrinsics, frames = (
            tensors[f"{prefix}.{name}"] for name in ("c2w", "fxfycxcy", "frame_time")
        )
        return frame.to_model(
            Views(c2w, intrinsics, frames, (image.shape[-2], image.shape[-1]), rgb)
        )

    return model.eval(), views("input", image), views("target", None)
