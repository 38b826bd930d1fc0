"""``fsm convert``: clips to other formats; released checkpoints and model folders to
safetensors.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fsm.cli.common import check_output, flag
from fsm.errors import InputError


@dataclass(frozen=True)
class Convert:
    """Write a clip in another format (--to), or a released checkpoint as a model folder."""

    source: tyro.conf.Positional[Annotated[str, flag("CLIP|FILE.pth", "")]]
    """Clip, with --to; else a released FSM or LaCT-NVS checkpoint, read as plain tensors, or a
    model folder.
    """
    output: Annotated[Path, flag("FOLDER", short="-o")] = Path("outputs/converted")
    """A new folder, of a clip or of a model."""
    to: Annotated[Literal["fsm", "transforms", "colmap"] | None, flag("FORMAT", "a model")] = None
    """fsm: our clip.json; transforms: nerfstudio's transforms.json; colmap: a text model."""
    id: Annotated[str | None, flag("NAME", "the only clip")] = None
    """Only this clip, where there are several."""
    chunk_tokens: Annotated[int, flag("N")] = 2048
    """Tokens per fast-weight step a checkpoint was trained with (128²: 2048, 256²: 8192, LaCT: 0,
    all at once).
    """
    elastic: Literal["si", "ewc", "mas", "none"] = "si"
    """Importance of the elastic prior it was trained with; none is plain LaCT."""
    anchor: Literal["streaming-ema", "streaming", "global"] = "streaming-ema"
    """Anchor of the elastic prior."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of a model on disk; bfloat16 halves the file."""

    def run(self) -> None:
        """Convert and say what was written."""
        check_output(self.output)
        if self.to is None:
            self._model()
        else:
            self._clip(self.to)

    def _clip(self, format: Literal["fsm", "transforms", "colmap"]) -> None:
        from fsm.datasets.open import open_clip
        from fsm.datasets.writers import write_clip

        if self.output.exists() and (not self.output.is_dir() or any(self.output.iterdir())):
            raise InputError(f"output is {self.output}, which is there; choose a new folder.")
        clip = open_clip(self.source, self.id)
        for lost in write_clip(clip, self.output, format):
            print(f"warning: {format} does not hold {lost}")
        print(f"{len(clip)} frames of {clip.id} in {self.output}")

    def _model(self) -> None:
        import torch

        from fsm.adapters.released import model_from_released
        from fsm.model import FSM, parameter_count
        from fsm.ttt import ElasticConfig

        source = Path(self.source)
        if source.is_dir():
            model = FSM.from_pretrained(source)
        else:
            elastic = None if self.elastic == "none" else ElasticConfig(self.elastic, self.anchor)
            model = model_from_released(source, chunk_tokens=self.chunk_tokens, elastic=elastic)
        model.save_pretrained(self.output, dtype=getattr(torch, self.dtype))
        encoder = model.config.encoder
        print(
            f"{encoder.layers} layers of width {encoder.block.dim}, patch {encoder.patch}, "
            f"layout {encoder.input_layout}, "
            f"{parameter_count(model) / 1e6:.2f} M parameters; model in {self.output}"
        )
