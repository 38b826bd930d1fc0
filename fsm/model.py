"""FSM: an encoder that remembers and a decoder head that renders from the memory.

model = FSM.from_pretrained("fsm-tiny")
scene = model.reconstruct(clip.views())
image = scene.render(clip.views([40]).without_rgb()).rgb
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fsm.encoder import UNREAD, Encoder, EncoderConfig, SceneMemory
from fsm.errors import InputError
from fsm.memory_scene import MemoryScene
from fsm.renderers.gaussians.gaussians4d import Gaussians4D, MovingGaussians
from fsm.renderers.gaussians.rasterize import rasterize
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.gaussians.types import GSPLAT, Projection
from fsm.renderers.heads.lrm import GaussianHead, GaussianHeadConfig
from fsm.renderers.heads.lvsm import PlainHead
from fsm.renderers.heads.pixel_gaussians import PixelGaussianHead
from fsm.renderers.heads.reference import ReferenceHead, ReferenceHeadConfig
from fsm.views import Rendering, SceneFrame, Views


@dataclass(frozen=True)
class ModelConfig:
    """Everything that defines a model but its weights."""

    encoder: EncoderConfig = EncoderConfig()
    """Tokenizer and trunk."""
    reference_head: ReferenceHeadConfig | None = None
    """Our extension: copy pixels of near input frames; null is the published direct head."""
    gaussian_head: GaussianHeadConfig | None = None
    """Decode 4D Gaussians (FSM-LRM) instead of pixels."""

    def __post_init__(self) -> None:
        if self.reference_head is not None and self.gaussian_head is not None:
            raise InputError(
                "model config: reference_head and gaussian_head are both given; a model "
                "has one decoder."
            )


GAUSSIAN_VIEWS = 8  # input views decoded to Gaussians at once; bounds memory, changes nothing


class FSM(nn.Module):
    """Posed views in, a scene out; the scene renders any view at any time."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.name: str | None = None
        self.encoder = Encoder(config.encoder)
        dim, patch = config.encoder.block.dim, config.encoder.patch
        self.head: PlainHead | ReferenceHead | GaussianHead | PixelGaussianHead
        if config.gaussian_head is not None:
            kind = PixelGaussianHead if config.gaussian_head.variant == "pixel" else GaussianHead
            self.head = kind(dim, patch, config.gaussian_head)
        elif config.reference_head is not None:
            self.head = ReferenceHead(dim, patch, config.reference_head)
        else:
            self.head = PlainHead(dim, patch)

    @property
    def decoder(self) -> Literal["lvsm", "lrm"]:
        """``lvsm`` predicts pixels of a requested view, ``lrm`` predicts Gaussians once."""
        return "lvsm" if self.config.gaussian_head is None else "lrm"

    @staticmethod
    def from_pretrained(name_or_path: str | Path, *, device: torch.device | str = "cpu") -> "FSM":
        """A model by bundled name, folder (config.json + model.safetensors) or hub name
        ``owner/name``, ready to render.
        """
        from fsm.checkpoint import load_pretrained

        return load_pretrained(name_or_path).to(device).eval()

    def save_pretrained(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors, whole or not at all."""
        from fsm.checkpoint import save_pretrained

        save_pretrained(self, folder)

    @property
    def projection(self) -> Projection:
        """How Gaussians of this model are drawn."""
        return GSPLAT if self.config.gaussian_head is None else self.config.gaussian_head.projection

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
                inputs = self._prepared(inputs)
                frame = SceneFrame.fit(inputs) if frame is None else frame.to(self.device)
                memory = self.encoder.empty(1) if memory is None else memory
                memory = self.encoder.update(memory, frame.to_model(inputs))
                seen.append(inputs if self.head.uses_references else inputs.without_rgb())
                scene = self._scene(self.encoder.finish(memory), frame, Views.cat(seen))
            yield scene

    def _scene(
        self, memory: SceneMemory, frame: SceneFrame, seen: Views
    ) -> MemoryScene | GaussianScene:
        if self.decoder == "lvsm":
            return MemoryScene(self, memory, frame, seen)
        observed = frame.to_model(seen)
        assert isinstance(self.head, (GaussianHead, PixelGaussianHead))
        return GaussianScene(
            self.gaussians(memory, observed)[0],
            SceneFrame(*(getattr(frame, f.name)[0] for f in dataclasses.fields(frame))),
            seen.unbatched(),
            background=self.head.background(observed)[0],
            projection=self.projection,
        )

    def _prepared(self, inputs: Views) -> Views:
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
        if self.decoder == "lvsm":
            memory = self._read(inputs, chunk_tokens)
            return self.decode(memory, targets.without_rgb(), inputs)
        gaussians, background = self.predict_gaussians(inputs, chunk_tokens)
        moving = [g.condition() for g in gaussians]
        views = [
            [draw(m, t[i], k, self.projection) for i in range(len(t))]
            for m, t, k in zip(moving, targets.samples(), background, strict=True)
        ]
        rgb, alpha, depth = (
            torch.stack([torch.cat([getattr(r, name) for r in row]) for row in views])
            for name in ("rgb", "alpha", "depth")
        )
        return Rendering(rgb, alpha, depth)

    def _read(self, inputs: Views, chunk_tokens: int | None) -> SceneMemory:
        return self.encoder.finish(self.encoder.update(UNREAD, inputs, chunk_tokens))

    def predict_gaussians(
        self, inputs: Views, chunk_tokens: int | None = None
    ) -> tuple[list[Gaussians4D], Float[Tensor, "b 3"]]:
        """Training step of an lrm model: Gaussians of every batch entry of ``inputs`` [b v], model
        space, and backgrounds.
        """
        assert isinstance(self.head, (GaussianHead, PixelGaussianHead))
        memory = self._read(inputs, chunk_tokens)
        return self.gaussians(memory, inputs), self.head.background(inputs)

    def decode(
        self,
        memory: SceneMemory,
        requests: Views,
        references: Views | None,
        inverse_depths: Tensor | None = None,
    ) -> Rendering:
        """Render requests [b v] in model space from a memory; depth comes out in model units.

        ``inverse_depths`` are those of the references [b n 1 h w], where a reference head has found
        them before.
        """
        assert isinstance(self.head, (PlainHead, ReferenceHead))
        known = () if inverse_depths is None else (inverse_depths,)
        return self.head(self.encoder.query(memory, requests), requests, references, *known)

    def gaussians(self, memory: SceneMemory, inputs: Views) -> list[Gaussians4D]:
        """Gaussians of every batch entry, decoded from copies of the inputs [b v] (model space)
        that read the memory.
        """
        assert isinstance(self.head, (GaussianHead, PixelGaussianHead))
        size = len(inputs) if torch.is_grad_enabled() else GAUSSIAN_VIEWS
        groups = [inputs[i : i + size] for i in range(0, len(inputs), size)]
        parts = [self.head(self.encoder.query(memory, group), group, inputs) for group in groups]
        return [Gaussians4D.cat(list(of_sample)) for of_sample in zip(*parts, strict=True)]


def draw(
    moving: MovingGaussians, view: Views, background: Float[Tensor, " 3"], projection: Projection
) -> Rendering:
    """One view [1] of Gaussians at its own time, everything in model space."""
    return rasterize(
        moving.at(view.time[0]), view.without_rgb(), background=background, projection=projection
    )


def parameter_count(model: nn.Module) -> int:
    """Number of learnt values."""
    return sum(p.numel() for p in model.parameters())
