"""``fsm convert``: released ``.pth`` checkpoints, and model folders, to safetensors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fsm.cli.common import check_output, flag


@dataclass(frozen=True)
class Convert:
    """Turn a released FSM-LVSM, FSM-LRM or LaCT-NVS checkpoint into a model folder; or a model
    folder into a smaller one.
    """

    checkpoint: tyro.conf.Positional[Annotated[Path, flag("FILE.pth", "")]]
    """Released checkpoint, read as plain tensors, nothing in it is run; or a model folder."""
    output: Annotated[Path, flag("FOLDER", short="-o")] = Path("outputs/model")
    """Where config.json and model.safetensors go."""
    chunk_tokens: Annotated[int, flag("N")] = 2048
    """Tokens per fast-weight step it was trained with (128²: 2048, 256²: 8192, LaCT: 0, all at
    once).
    """
    elastic: Literal["si", "ewc", "mas", "none"] = "si"
    """Importance of the elastic prior it was trained with; none is plain LaCT."""
    anchor: Literal["streaming-ema", "streaming", "global"] = "streaming-ema"
    """Anchor of the elastic prior."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format on disk; bfloat16 halves the file."""

    def run(self) -> None:
        """Convert and say what was found."""
        import torch

        from fsm.adapters.released import model_from_released
        from fsm.model import FSM, parameter_count
        from fsm.ttt import ElasticConfig

        check_output(self.output)
        if self.checkpoint.is_dir():
            model = FSM.from_pretrained(self.checkpoint)
        else:
            elastic = None if self.elastic == "none" else ElasticConfig(self.elastic, self.anchor)
            model = model_from_released(
                self.checkpoint, chunk_tokens=self.chunk_tokens, elastic=elastic
            )
        model.save_pretrained(self.output, dtype=getattr(torch, self.dtype))
        encoder = model.config.encoder
        print(
            f"{encoder.layers} layers of width {encoder.block.dim}, patch {encoder.patch}, "
            f"layout {encoder.input_layout}, "
            f"{parameter_count(model) / 1e6:.2f} M parameters; model in {self.output}"
        )
