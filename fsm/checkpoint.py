"""Model weights on disk: config.json + model.safetensors, by folder, bundled name or hub name. No
pickles.

These functions know files, not models: ``fsm.model`` builds a model from what they read.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fsm.errors import InputError
from fsm.files import atomic_folder, read_json, read_safetensors, write_json

FORMAT = 1
BUNDLED = Path(__file__).parent / "weights"
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def bundled_names() -> list[str]:
    """Names of the checkpoints that ship with the package."""
    return sorted(p.parent.name for p in BUNDLED.glob(f"*/{CONFIG}"))


def write_checkpoint(
    folder: Path | str,
    config: dict[str, Any],
    weights: dict[str, Tensor],
    dtype: torch.dtype | None = None,
) -> None:
    """Write plain config values and weights, these in ``dtype`` where it is given.

    An older checkpoint in ``folder`` is replaced; any other folder with content is refused, its
    content untouched.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / WEIGHTS).is_file():
        raise InputError(
            f"{folder} exists and is not a checkpoint; choose another folder to save the model to."
        )
    with atomic_folder(folder) as temporary:
        weights = {
            k: t.detach().cpu().to(dtype or t.dtype).contiguous() for k, t in weights.items()
        }
        save_file(weights, temporary / WEIGHTS)
        write_json(temporary / CONFIG, {"format": FORMAT, "model": config})


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found."""

    folder: Path
    """Where it lies."""
    name: str | None
    """The name it can be found by again; None for a folder."""
    config: Any
    """Plain values of the model's config, unchecked."""

    @property
    def where(self) -> str:
        """The config file, for errors."""
        return str(self.folder / CONFIG)

    def load_into(self, model: nn.Module) -> None:
        """Copy the weights into a model built from ``config``, all or none."""
        path = self.folder / WEIGHTS
        load_weights(model, upgraded_weights(read_safetensors(path)), str(path))


def find_checkpoint(name_or_path: str | Path) -> Checkpoint:
    """The checkpoint in a folder, of a bundled name, or on the hub (``owner/name``, downloaded once
    by huggingface_hub).
    """
    folder, name = _locate(str(name_or_path))
    where = folder / CONFIG
    values = read_json(where)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise InputError(
            f"{where} has format {found!r}, this version reads {FORMAT}; use `fsm convert` "
            "for released weights."
        )
    return Checkpoint(folder, name, upgraded(values.get("model"), str(where)))


def upgraded(config: Any, where: str) -> Any:
    """Plain values of a model config as they are written now.

    Older configs have the fields ``reference_head`` and ``gaussian_head``, of which at most one is
    set, in place of ``head``. Options that are gone are dropped where they hold the one value that
    is left, else they raise ``InputError``. Anything else is returned as it is.
    """
    if not isinstance(config, dict) or not {"reference_head", "gaussian_head"} & config.keys():
        return config
    config = dict(config)
    heads = [config.pop(name, None) for name in ("reference_head", "gaussian_head")]
    if not all(head is None or isinstance(head, dict) for head in heads) or all(heads):
        raise InputError(
            f"{where} should give one of reference_head and gaussian_head, as named values; "
            "convert or train the model again."
        )
    reference, gaussian = heads
    if reference is not None:
        left = {"sampling": "depth", "occlusion": True, "motion_guess": True}
        for name, value in left.items():
            if reference.get(name, value) != value:
                raise InputError(
                    f"{where}: reference_head has {name} {reference[name]!r}, which is gone; "
                    "train the model again."
                )
        head = {"kind": "reference", **{k: v for k, v in reference.items() if k not in left}}
        head = _with_stereo(head)
    elif gaussian is None:
        head = {"kind": "lvsm"}
    elif gaussian.get("variant", "pixel") == "pixel":
        unused = ("variant", "near", "far")
        head = {"kind": "pixel-gaussians", **{k: v for k, v in gaussian.items() if k not in unused}}
        head = _with_stereo(head)
    else:
        used = ("variant", "near", "far")
        head = {"kind": "lrm", **{k: gaussian[k] for k in used if k in gaussian}}
    return {**config, "head": head}


# logit of motion in weights that never learnt to tell what moves
STANDS = -2.0


def upgraded_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a model as it is built now.

    Older reference heads also corrected depth, motion and blending weights by their tokens, and
    passed eight channels on to the refinements. Without them pictures stay the same to 0.01 dB
    (docs/depth.md), so they are dropped. Older stereo did not tell what moves: everything stands.
    """
    weights = _with_motion(weights)
    if not {"head.geometry.weight", "head.slot_logit.weight"} <= weights.keys():
        return weights
    gone = ("head.geometry.", "head.slot_logit.", "head.context.")
    kept = {name: t for name, t in weights.items() if not name.startswith(gone)}
    context = 8
    for name, tensor in kept.items():
        if name.startswith("head.refinements.") and name.endswith(".enter.weight"):
            kept[name] = tensor[:, :-context].contiguous()
    return kept


def _with_motion(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with an output for motion, where stereo has none: everything stands."""
    joined = "head.stereo.sweeps.0.outlines.leave.weight"
    if joined not in weights or "head.stereo.sweeps.0.motion.weight" in weights:
        return weights
    motion = {
        "head.stereo.sweeps.0.motion.weight": torch.zeros_like(weights[joined][:1]),
        "head.stereo.sweeps.0.motion.bias": torch.full_like(weights[joined][:1, 0, 0, 0], STANDS),
    }
    return {**weights, **motion}


def _with_stereo(head: dict[str, Any]) -> dict[str, Any]:
    """An older head's numbers of depth planes, and of source views, as its ``stereo`` config."""
    head = dict(head)
    sweep = {name: head.pop(name) for name in ("planes", "fine_planes") if name in head}
    sources = {"sources": head["references"]} if "references" in head else {}
    return {**head, "stereo": {**sources, "sweep": sweep}}


def _locate(name: str) -> tuple[Path, str | None]:
    """Folder of a checkpoint, and its name where it can be found again by name alone."""
    if Path(name).is_dir():
        return Path(name), None
    if name in bundled_names():
        return BUNDLED / name, name
    parts = name.split("/")
    if len(parts) == 2 and all(parts) and not name.startswith((".", "~")):
        return _download(name), name
    bundled = ", ".join(bundled_names()) or "none"
    raise InputError(
        f"no checkpoint {name!r}: neither a folder, nor bundled ({bundled}), nor a hub "
        "name owner/name."
    )


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"checkpoint {name!r} could not be fetched from the hub ({reason}); pass a "
            "local folder instead."
        ) from error


def load_weights(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Copy weights into a model, all or none; missing, extra, misshapen and non-finite tensors are
    listed.
    """
    own = model.state_dict()
    problems = [f"missing {k}" for k in own if k not in weights] + [
        f"unknown {k}" for k in weights if k not in own
    ]
    problems += [
        f"{k} has shape {tuple(weights[k].shape)} instead of {tuple(t.shape)}"
        for k, t in own.items()
        if k in weights and weights[k].shape != t.shape
    ]
    if not problems:
        problems = [
            f"{k} holds NaN or infinite values"
            for k, t in weights.items()
            if not bool(torch.isfinite(t).all())
        ]
    if problems:
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise InputError(f"{where} does not fit this model: {'; '.join(problems[:10])}{more}.")
    model.load_state_dict({k: t.to(own[k].dtype) for k, t in weights.items()})


@runtime_checkable
class HasWeights(Protocol):
    """A module, as far as its weights go."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors by name."""
        ...


def weights_hash(model: HasWeights) -> str:
    """SHA-256 over names and float32 values of all weights: what results and scenes refer to."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
