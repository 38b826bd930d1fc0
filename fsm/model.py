"""FSM: an encoder that remembers and a decoder head that renders from the memory.

model = FSM.from_pretrained("fsm-tiny")
scene = model.reconstruct(clip.views())
image = scene.render(clip.views([40]).without_rgb()).rgb
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from fsm.checkpoint import find_checkpoint, write_checkpoint
from fsm.config import from_dict, to_dict
from fsm.encoder import UNREAD, Encoder, EncoderConfig, SceneMemory
from fsm.errors import InputError
from fsm.memory_scene import MemoryScene
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.heads.lvsm import LvsmHeadConfig
from fsm.renderers.heads.registry import HeadConfig, build_head
from fsm.renderers.stereo.layers import Layers
from fsm.views import Rendering, SceneFrame, Views


@dataclass(frozen=True)
class ModelConfig:
    """Everything that defines a model but its weights."""

    encoder: EncoderConfig = EncoderConfig()
    """Tokenizer and trunk."""
    head: HeadConfig = LvsmHeadConfig()
    """Decoder: ``kind: lvsm`` and ``lrm`` as published, ``reference`` and ``pixel-gaussians`` are
    ours.
    """


class FSM(nn.Module):
    """Posed views in, a scene out; the scene renders any view at any time."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.name: str | None = None
        self.encoder = Encoder(config.encoder)
        self.head = build_head(config.encoder.block.dim, config.encoder.patch, config.head)

    @property
    def decoder(self) -> Literal["lvsm", "lrm"]:
        """``lvsm`` predicts pixels of a target, ``lrm`` predicts Gaussians once."""
        return self.head.decoder

    @staticmethod
    def from_pretrained(name_or_path: str | Path, *, device: torch.device | str = "cpu") -> "FSM":
        """A model by bundled name, folder (config.json + model.safetensors) or hub name
        ``owner/name``, ready to render.
        """
        found = find_checkpoint(name_or_path)
        model = FSM(from_dict(ModelConfig, found.config, found.where))
        found.load_into(model)
        model.name = found.name
        return model.to(device).eval()

    def save_pretrained(self, folder: Path | str, *, dtype: torch.dtype | None = None) -> None:
        """Write config.json and model.safetensors, whole or not at all.

        ``dtype`` (bfloat16) halves the file; weights are float32 in memory again.
        """
        write_checkpoint(folder, to_dict(self.config), self.state_dict(), dtype)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.embed.weight.device

    def working_size(self, hw: tuple[int, int]) -> tuple[int, int]:
        """The image size the trunk works at for a requested one: each side to the nearest multiple
        of the patch, at least one.
        """
        patch = self.config.encoder.patch
        h, w = (max(1, round(side / patch)) * patch for side in hw)
        return h, w

    @torch.no_grad()
    def reconstruct(
        self, inputs: Views, frame: SceneFrame | None = None
    ) -> MemoryScene | GaussianScene:
        """Read posed frames [v] or [1 v] into a scene, in time order, one chunk at a time.

        Sizes that the patch does not divide are resized (``working_size``). ``frame`` replaces the
        normalisation that is otherwise fitted on the inputs.
        """
        for scene in self.stream([inputs], frame):
            return scene
        raise AssertionError("stream of one push yields one scene")

    def stream(
        self, pushes: "list[Views] | Iterator[Views]", frame: SceneFrame | None = None
    ) -> Iterator[MemoryScene | GaussianScene]:
        """Push groups of frames one after the other and yield the scene as known after each.

        With the causal schedule the cost of a push does not depend on what came before (Gaussians
        are decoded anew from all frames seen). Without ``frame`` the normalisation is fitted on the
        first push and kept.
        """
        memory: SceneMemory | None = None
        seen: list[Views] = []
        for inputs in pushes:
            # here and not about the generator: whoever it yields to may want gradients
            with torch.no_grad():
                inputs = self._checked(inputs)
                frame = _of_a_stream(inputs) if frame is None else frame.to(self.device)
                frame.warn_if_held(inputs.time)
                memory = self.encoder.empty(1) if memory is None else memory
                memory = self.encoder.update(memory, frame.to_model(inputs))
                seen.append(self.head.kept(inputs))
                scene = self._scene(self.encoder.finish(memory), frame, Views.cat(seen))
            yield scene

    def _scene(
        self, memory: SceneMemory, frame: SceneFrame, seen: Views
    ) -> MemoryScene | GaussianScene:
        scene = self.head.scene(seen, frame, partial(self.encoder.query, memory))
        return MemoryScene(self, memory, frame, seen) if scene is None else scene

    def _checked(self, inputs: Views) -> Views:
        if inputs.c2w.ndim == 3:
            inputs = inputs.batched()
        if inputs.rgb is None or inputs.c2w.shape[0] != 1 or len(inputs) == 0:
            raise InputError(
                "reconstruct needs at least one observed view of one scene: Views [v] with rgb."
            )
        if not all(
            bool(torch.isfinite(t).all())
            for t in (inputs.c2w, inputs.intrinsics, inputs.time, inputs.rgb)
        ):
            raise InputError(
                "the input views hold NaN or infinite values; run `fsm inspect` on the clip."
            )
        inputs = inputs.to(self.device)[torch.argsort(inputs.time[0], stable=True)]
        inputs = inputs.resized(self.working_size(inputs.hw))
        # Eight bits are what a saved scene keeps, so that a reopened one renders the same bits.
        assert inputs.rgb is not None
        return dataclasses.replace(inputs, rgb=(inputs.rgb * 255.0).round().clamp(0, 255) / 255.0)

    def forward(self, inputs: Views, targets: Views, chunk_tokens: int | None = None) -> Rendering:
        """Training step: render ``targets`` [b t] from ``inputs`` [b v], both in model space and at
        a working size.
        """
        memory = self._read(inputs, chunk_tokens)
        return self.decode(memory, targets.without_rgb(), self.prepare(memory, inputs))

    def predict(self, inputs: Views, chunk_tokens: int | None = None) -> Any:
        """Training step in two parts: what the head prepares from ``inputs`` [b v] in model
        space.
        """
        return self.prepare(self._read(inputs, chunk_tokens), inputs)

    def _read(self, inputs: Views, chunk_tokens: int | None = None) -> SceneMemory:
        return self.encoder.finish(self.encoder.update(UNREAD, inputs, chunk_tokens))

    def prepare(self, memory: SceneMemory, inputs: Views) -> Any:
        """What the head works out once per scene, from the inputs [b n] in model space."""
        return self.head.prepare(inputs, partial(self.encoder.query, memory))

    def decode(self, memory: SceneMemory, targets: Views, prepared: Any) -> Rendering:
        """Render targets [b v] in model space from a memory and what was prepared; depth comes out
        in model units.
        """
        return self.head.decode(targets, prepared, partial(self.encoder.query, memory))

    @property
    def finds_layers(self) -> bool:
        """Whether ``layers`` finds depth and motion of the inputs."""
        return self.head.finds_layers

    def layers(self, prepared: Any, index: list[int]) -> Layers:
        """Depth and motion of the inputs of these numbers, in model units; ``InputError`` where the
        head does not find them.
        """
        found = self.head.layers(prepared, index)
        if found is None:
            raise InputError(
                f"the model {self.name or 'at hand'} finds no depth of its input frames; use one "
                "with a reference head, as fsm-tiny has."
            )
        return found


def _of_a_stream(first: Views) -> SceneFrame:
    """Normalisation fitted on the first push. Where that is one moment others may follow: a second
    is then half the time.
    """
    frame = SceneFrame.fit(first)
    span = torch.where(frame.time_span.isinf(), torch.ones_like(frame.time_span), frame.time_span)
    return dataclasses.replace(frame, time_span=span)


def parameter_count(model: nn.Module) -> int:
    """Number of learnt values."""
    return sum(p.numel() for p in model.parameters())
