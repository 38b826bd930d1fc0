"""``fsm reconstruct``: posed clip to scene."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fsm.cli.common import check_output, choose_device, flag, parse_size, save_settings
from fsm.errors import InputError

if TYPE_CHECKING:
    from fsm.model import FSM

DEFAULT_MODELS = {"lvsm": "fsm-tiny", "lrm": "fsm-tiny-lrm"}


@dataclass(frozen=True)
class Reconstruct:
    """Read a posed clip into a scene (memory or Gaussians) that can be rendered from anywhere."""

    clip: tyro.conf.Positional[Annotated[str, flag("CLIP", "")]]
    """Clip file or folder, or `demo`, or `synthetic:SEED`."""
    output: Annotated[Path, flag("FOLDER", short="-o")] = Path("outputs/scene")
    """Where the scene goes; an older scene there is replaced."""
    decoder: Annotated[Literal["lvsm", "lrm"] | None, flag("NAME", "the model's, else lvsm")] = None
    """lvsm: a memory that pictures are decoded from; lrm: 4D Gaussians, to refine, export and edit."""
    model: Annotated[str | None, flag("MODEL", "fsm-tiny or fsm-tiny-lrm, by decoder")] = None
    """Bundled name, folder, or hub name owner/name."""
    id: Annotated[str | None, flag("NAME", "the only clip")] = None
    """Which clip, where there are several."""
    inputs: Annotated[int, flag("N")] = 32
    """Frames read, spread evenly over the clip; 0 reads all."""
    hold_out: Annotated[int, flag("K")] = 0
    """Leave out every K-th frame (to evaluate on); 0 leaves out none."""
    size: Annotated[str | None, flag("WxH", "128 pixels high")] = None
    """Working size; frames are scaled to cover it and cropped about the centre."""
    fix_poses: bool = False
    """Take the nearest rotation of scaled or sheared poses."""
    device: Annotated[str, flag("DEVICE")] = "auto"
    """auto, cpu or cuda."""

    def run(self) -> None:
        """Reconstruct and say where."""
        import time

        from fsm.datasets.open import open_clip
        from fsm.memory_scene import MemoryScene

        check_scene_folder(self.output)
        clip = open_clip(self.clip, self.id, self.fix_poses)
        index = choose_frames(len(clip), self.inputs, self.hold_out)
        hw = parse_size(self.size or "128", clip.cameras.hw)
        device = choose_device(self.device)
        model = self._model(device)
        hw = model.working_size(hw)
        inputs = clip.views(index, hw)
        began = time.perf_counter()
        scene = model.reconstruct(inputs)
        seconds = time.perf_counter() - began
        scene.save(self.output)
        settings = {
            "decoder": model.decoder,
            "model": self._name,
            "frames": index,
            "size": f"{hw[1]}x{hw[0]}",
            "device": device,
        }
        save_settings(self.output / "reconstruct.yaml", self, **settings)
        made = "memory" if isinstance(scene, MemoryScene) else f"{len(scene.gaussians):,} Gaussians"
        print(f"{len(index)} of {len(clip)} frames at {hw[1]}x{hw[0]} read in {seconds:.2f} s; {made} in {self.output}")

    @property
    def _name(self) -> str:
        return self.model or DEFAULT_MODELS[self.decoder or "lvsm"]

    def _model(self, device: str) -> "FSM":
        from fsm.model import FSM

        model = FSM.from_pretrained(self._name, device=device)
        if self.decoder not in (None, model.decoder):
            raise InputError(f"decoder is {self.decoder}, but {self.model} is an {model.decoder} model; leave one out.")
        return model


def choose_frames(frames: int, inputs: int, hold_out: int) -> list[int]:
    """Evenly spread frame numbers of a clip, those at multiples of ``hold_out`` left out."""
    for name, value, least in (("inputs", inputs, 0), ("hold-out", hold_out, 0)):
        if value < least or (name == "hold-out" and value == 1):
            raise InputError(f"--{name} is {value}; give 0, or a number of at least {2 if name == 'hold-out' else 1}.")
    free = [i for i in range(frames) if not hold_out or i % hold_out != hold_out // 2]
    if inputs == 0 or inputs >= len(free):
        return free
    return [free[round(i * (len(free) - 1) / max(1, inputs - 1))] for i in range(inputs)]


def check_scene_folder(path: Path) -> None:
    """Refuse to replace anything that is not a scene, and places that cannot be written to."""
    if path.exists() and not (path / "scene.json").is_file() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"output is {path}, which exists and is not a scene; choose another folder.")
    check_output(path)
