"""Model weights on disk: config.json + model.safetensors, by folder, bundled name or hub name. No
pickles.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fsm.config import from_dict, to_dict
from fsm.errors import InputError
from fsm.files import atomic_folder, read_json, read_safetensors, write_json

if TYPE_CHECKING:
    from fsm.model import FSM

FORMAT = 1
BUNDLED = Path(__file__).parent / "weights"


def bundled_names() -> list[str]:
    """Names of the checkpoints that ship with the package."""
    return sorted(p.parent.name for p in BUNDLED.glob("*/config.json"))


def save_pretrained(model: "FSM", folder: Path | str, *, dtype: torch.dtype | None = None) -> None:
    """Write config.json and model.safetensors; ``dtype`` (bfloat16) halves the file, weights are
    float32 in memory again.

    An older checkpoint in ``folder`` is replaced; any other folder with content is refused, its
    content untouched.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "model.safetensors").is_file():
        raise InputError(
            f"{folder} exists and is not a checkpoint; choose another folder to save the model to."
        )
    with atomic_folder(folder) as temporary:
        weights = {
            k: t.detach().cpu().to(dtype or t.dtype).contiguous()
            for k, t in model.state_dict().items()
        }
        save_file(weights, temporary / "model.safetensors")
        write_json(temporary / "config.json", {"format": FORMAT, "model": to_dict(model.config)})


def load_pretrained(name_or_path: str | Path) -> "FSM":
    """A model from a folder, a bundled name, or the hub (``owner/name``, downloaded once by
    huggingface_hub).
    """
    from fsm.model import FSM, ModelConfig

    folder, name = _locate(str(name_or_path))
    where = folder / "config.json"
    values = read_json(where)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise InputError(
            f"{where} has format {found!r}, this version reads {FORMAT}; use `fsm convert` "
            "for released weights."
        )
    model = FSM(from_dict(ModelConfig, values.get("model"), str(where)))
    load_weights(
        model, read_safetensors(folder / "model.safetensors"), str(folder / "model.safetensors")
    )
    model.name = name
    return model.eval()


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
        return Path(snapshot_download(name, allow_patterns=["config.json", "model.safetensors"]))
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


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names and float32 values of all weights: what results and scenes refer to."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
