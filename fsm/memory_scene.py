"""A scene as the encoder remembers it: fast weights, normalisation, and what the decoder head keeps
of the input views.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fsm.checkpoint import HasWeights, weights_hash
from fsm.encoder import Encoder, SceneMemory
from fsm.errors import InputError
from fsm.files import atomic_folder, read_json, read_safetensors, write_json
from fsm.frame_ids import frames_from_json
from fsm.renderers.motion.rigid import rigid_motions
from fsm.renderers.motion.tracks import PointTracks, lift, track
from fsm.renderers.stereo.config import FusionConfig
from fsm.renderers.stereo.fusion import Surfaces, fused
from fsm.renderers.stereo.layers import Layers
from fsm.ttt import FastWeightState
from fsm.views import Rendering, SceneFrame, Views

FORMAT = 1
NEARLY_INFINITE = 1e-3  # least inverse depth reported, model units
RENDER_TOKENS = 16_384  # target tokens decoded at once; bounds memory, changes no pixel


@dataclass(frozen=True)
class SceneLayers:
    """Maps of v input frames, in the clip's unit of length and seconds."""

    depth: Float[Tensor, "v 1 h w"]
    """z-depth."""
    confidence: Float[Tensor, "v 1 h w"]
    """Probability that the depth is right, as far as the pictures tell."""
    standing: Float[Tensor, "v 1 h w"]
    """Probability that what a pixel shows stands still."""
    velocity: Float[Tensor, "v 3 h w"]
    """Of what more likely moves, in the clip's axes; 0 elsewhere."""


@runtime_checkable
class Model(HasWeights, Protocol):
    """What a scene needs of the model that read it; ``fsm.model.FSM`` is one."""

    name: str | None
    encoder: Encoder

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def working_size(self, hw: tuple[int, int]) -> tuple[int, int]:
        """The image size it renders at for a requested one."""
        ...

    def prepare(self, memory: SceneMemory, inputs: Views) -> Any:
        """What its head works out once per scene."""
        ...

    def decode(self, memory: SceneMemory, targets: Views, prepared: Any) -> Rendering:
        """Targets [1 v] in model space."""
        ...

    @property
    def finds_layers(self) -> bool:
        """Whether it finds depth and motion of inputs."""
        ...

    def layers(self, prepared: Any, index: list[int]) -> Layers:
        """Depth and motion of some inputs in model units."""
        ...

    def save_pretrained(self, folder: Path | str) -> None:
        """Write config and weights to a folder."""
        ...


class MemoryScene:
    """Implements ``fsm.renderers.base.Scene`` with a model and its memory of one clip."""

    def __init__(self, model: Model, memory: SceneMemory, frame: SceneFrame, inputs: Views) -> None:
        self.model = model
        self.memory = memory
        self.frame = frame
        self._observed = inputs  # [1 v], in the clip's space, as far as the head keeps them

    @property
    def inputs(self) -> Views:
        """Cameras and times of the input frames [v], in the clip's own space and seconds."""
        return self._observed.without_rgb().unbatched()

    @property
    def observed(self) -> Views:
        """The input views [v] as far as the scene keeps them: with rgb where its model looks at
        it.
        """
        return self._observed.unbatched()

    @property
    def unbatched_frame(self) -> SceneFrame:
        """``frame`` for views [v]."""
        fields = dataclasses.fields(self.frame)
        return SceneFrame(*(getattr(self.frame, f.name)[0] for f in fields))

    @property
    def frames_seen(self) -> Int64[Tensor, "n 2"] | None:
        """Ids of the input frames; None where they are not known."""
        ids = self._observed.frame_ids
        return None if ids is None else ids[0].cpu()

    @property
    def hw(self) -> tuple[int, int]:
        """Image size the scene was read at, and the natural size to render."""
        return self._observed.hw

    @torch.no_grad()
    def render(self, views: Views) -> Rendering:
        """Pictures for requested views [v] or [1 v]; sizes the patch does not divide are rendered
        at the nearest that it does.
        """
        batched = views.c2w.ndim == 4
        views = views if batched else views.batched()
        self.frame.warn_if_held(views.time)
        requests = views.without_rgb().to(self.model.device)
        if requests.c2w.shape[0] != 1:
            raise InputError(f"a scene renders one batch entry, found {requests.c2w.shape[0]}.")
        working = requests.resized(self.model.working_size(requests.hw))
        working = self.frame.to_model(working)
        per_view = max(1, working.hw[0] * working.hw[1] // self.model.encoder.config.patch**2)
        size = max(1, RENDER_TOKENS // per_view)
        groups = [working[start : start + size] for start in range(0, len(working), size)]
        parts = [self.model.decode(self.memory, group, self._prepared) for group in groups]
        rgb = torch.cat([p.rgb for p in parts], dim=1)
        depth = (
            torch.cat([p.depth for p in parts if p.depth is not None], dim=1)
            if parts[0].depth is not None
            else None
        )
        if depth is not None:
            depth = depth / self.frame.scale[:, None, None, None, None]
        rendering = Rendering(
            _resize(rgb, requests.hw), depth=None if depth is None else _resize(depth, requests.hw)
        )
        if batched:
            return rendering
        return Rendering(
            rendering.rgb[0], depth=None if rendering.depth is None else rendering.depth[0]
        )

    @torch.no_grad()
    def layers(self, index: Sequence[int] | None = None) -> SceneLayers:
        """What stands and what moves in the input frames of these numbers (default: all), in the
        clip's unit of length and seconds. ``InputError`` where the model finds no depth.
        """
        which = list(range(len(self._observed))) if index is None else [int(i) for i in index]
        found = self.model.layers(self._prepared, which)
        scale = self.frame.scale[:, None, None, None, None]
        seconds = 0.5 * self.frame.time_span[:, None, None, None, None]
        back = self.frame.T_model_world[:, :3, :3].mT
        velocity = torch.einsum("bij,bvjhw->bvihw", back, found.velocity) / scale
        velocity = velocity / seconds * (found.moving > 0.5)
        depth = 1.0 / (found.inverse_depth.clamp_min(NEARLY_INFINITE) * scale)
        return SceneLayers(depth[0], found.confidence[0], found.standing[0], velocity[0])

    @torch.no_grad()
    def surfaces(self) -> tuple[Layers, Surfaces]:
        """Layers of the input frames, and these as one surface where they stand, by the evidence of
        all of them; batch of one, model space. ``InputError`` where the model finds no depth.
        """
        views = self.frame.to_model(self._observed)
        layers = self.model.layers(self._prepared, list(range(len(views))))
        return layers, fused(views, layers, FusionConfig())

    def tracks(self) -> tuple[PointTracks, Int64[Tensor, " n"]]:
        """Points of what moves, followed through the input frames in the clip's space and seconds;
        and of each the number of the rigid motion that it shares, -1 where it shares none.

        ``InputError`` where the model finds no depth.
        """
        observed, maps = self.observed, self.layers()
        found = lift(track(observed), observed, 1.0 / maps.depth, 1.0 - maps.standing)
        motions = rigid_motions(dataclasses.replace(found, times=self._model_times(found.times)))
        alone = torch.full((found.points.shape[1],), -1, device=found.points.device)
        return found, alone if motions is None else motions.group

    def _model_times(self, seconds: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        return self.frame.model_time(seconds[None])[0]

    @cached_property
    def _prepared(self) -> Any:
        """What the head has to work out only once."""
        return self.model.prepare(self.memory, self.frame.to_model(self._observed))

    def save(self, path: Path | str) -> None:
        """Write scene.json and memory.safetensors (and the model, unless it can be found by name)
        to a folder.
        """
        from safetensors.torch import save_file

        with atomic_folder(path) as folder:
            tensors = {
                f"frame.{f.name}": getattr(self.frame, f.name)
                for f in dataclasses.fields(self.frame)
            }
            for name in ("c2w", "intrinsics", "time"):
                tensors[f"inputs.{name}"] = getattr(self._observed, name)
            if self._observed.rgb is not None:
                tensors["inputs.rgb"] = (self._observed.rgb * 255.0).round().to(torch.uint8)
            for i, state in enumerate(self.memory.layers):
                tensors[f"layers.{i}.weights"] = state.weights
            save_file(
                {k: t.detach().cpu().contiguous() for k, t in tensors.items()},
                folder / "memory.safetensors",
            )
            if self.model.name is None:
                self.model.save_pretrained(folder / "model")
            write_json(
                folder / "scene.json",
                {
                    "format": FORMAT,
                    "kind": "memory",
                    "model": self.model.name or "model/",
                    "weights_sha256": weights_hash(self.model),
                    "views_seen": self.memory.views_seen,
                    "hw": list(self.hw),
                    "frames_seen": None if self.frames_seen is None else self.frames_seen.tolist(),
                },
            )

    @staticmethod
    def load(path: Path | str, find_model: Callable[[Path | str], Model]) -> "MemoryScene":
        """Reopen a saved scene; it renders bit for bit what it rendered before (on CUDA, where sums
        have no order, to rounding).

        ``find_model`` gives the model of a name or folder, ready to render, on its device.
        """
        folder = Path(path)
        meta = read_json(folder / "scene.json")
        _check_meta(meta, folder)
        model = find_model(folder / "model" if meta["model"] == "model/" else meta["model"])
        if weights_hash(model) != meta["weights_sha256"]:
            raise InputError(
                f"{folder / 'scene.json'} was made with other weights of {meta['model']!r} "
                "(weights_sha256 differs); "
                "reconstruct the clip again with the weights at hand."
            )
        return _assemble(model, meta, read_safetensors(folder / "memory.safetensors"), folder)


def _check_meta(meta: Any, folder: Path) -> None:
    where = folder / "scene.json"
    if not isinstance(meta, dict) or meta.get("kind") != "memory":
        raise InputError(
            f"{where} is not a memory scene (field kind); expected a folder written by "
            "`fsm reconstruct`."
        )
    if meta.get("format") != FORMAT:
        raise InputError(
            f"{where} has format {meta.get('format')!r}, this version reads {FORMAT}; "
            "reconstruct the clip again."
        )
    for name in ("model", "weights_sha256", "views_seen", "hw"):
        if name not in meta:
            raise InputError(f"{where} lacks the field {name!r}; reconstruct the clip again.")


def _assemble(
    model: Model, meta: dict[str, Any], tensors: dict[str, Tensor], folder: Path
) -> MemoryScene:
    device = model.device
    try:
        frame = SceneFrame(*(tensors[f"frame.{f.name}"] for f in dataclasses.fields(SceneFrame)))
        empty: tuple[FastWeightState, ...] = model.encoder.empty(1).layers
        # Only what reading needs is stored: anchor and importance matter to writing alone.
        layers = tuple(
            dataclasses.replace(
                state,
                weights=tensors[f"layers.{i}.weights"].to(device),
                anchor=None,
                importance=None,
            )
            for i, state in enumerate(empty)
        )
        rgb = tensors.get("inputs.rgb")
        seen = frames_from_json(meta.get("frames_seen"), str(folder / "scene.json"))
        observed = Views(
            tensors["inputs.c2w"],
            tensors["inputs.intrinsics"],
            tensors["inputs.time"],
            (int(meta["hw"][0]), int(meta["hw"][1])),
            None if rgb is None else rgb.float() / 255.0,
            frame_ids=None if seen is None else seen[None],
        )
    except KeyError as error:
        raise InputError(
            f"{folder / 'memory.safetensors'} lacks the tensor {error}; reconstruct the clip again."
        ) from error
    memory = SceneMemory(layers, None, int(meta["views_seen"]), finished=True)
    return MemoryScene(model, memory, frame.to(device), observed.to(device))


def _resize(images: Tensor, hw: tuple[int, int]) -> Tensor:
    from fsm.views import resize_images

    return images if tuple(images.shape[-2:]) == tuple(hw) else resize_images(images, hw)
