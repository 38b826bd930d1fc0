"""``fsm layers``: depth, motion and what stands, of the frames that a scene was read from."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fsm.cli.common import check_output, choose_device, flag, save_settings
from fsm.errors import InputError
from fsm.runs import tracked

if TYPE_CHECKING:
    from fsm.memory_scene import MemoryScene


@dataclass(frozen=True)
class LayersCommand:
    """Write depth, masks of what moves, 3D motion and tracks of a scene's input frames."""

    scene: tyro.conf.Positional[Annotated[Path, flag("SCENE", "")]]
    """Scene folder with a memory, as `fsm reconstruct` writes it."""
    output: Annotated[Path, flag("FOLDER", short="-o")] = Path("outputs/layers")
    """Where depth/, confidence/, moving/ and velocity/ go, one file a frame, and tracks.npz."""
    device: Annotated[str, flag("DEVICE")] = "auto"
    """auto, cpu or cuda."""

    def run(self) -> None:
        """Write the maps and say how much moves."""
        from fsm.files import atomic_folder
        from fsm.memory_scene import MemoryScene
        from fsm.open_scene import open_scene

        check_output(self.output)
        scene = open_scene(self.scene, choose_device(self.device))
        if not isinstance(scene, MemoryScene):
            raise InputError(
                f"{self.scene} holds Gaussians, not input frames; reconstruct the clip with "
                "--decoder lvsm."
            )
        with atomic_folder(self.output) as folder:
            moving = self._write(scene, folder)
            save_settings(folder / "layers.yaml", self)
        print(f"{len(scene.inputs)} frames, {100 * moving:.1f} % moving; in {self.output}")

    def _write(self, scene: "MemoryScene", folder: Path) -> float:
        """All maps; the share of pixels that more likely move."""
        import numpy as np

        from fsm.renderers.film.layer_files import write_depth, write_mask

        for name in ("depth", "confidence", "moving", "velocity"):
            (folder / name).mkdir()
        shares = []
        for i in tracked(range(len(scene.inputs)), "finding", len(scene.inputs)):
            one, name = scene.layers([i]), f"{i:05d}"
            write_depth(folder / "depth" / name, one.depth[0, 0])
            np.save(folder / "confidence" / f"{name}.npy", one.confidence[0, 0].cpu().numpy())
            np.save(folder / "velocity" / f"{name}.npy", one.velocity[0].cpu().numpy())
            write_mask(folder / "moving" / f"{name}.png", one.standing[0, 0] < 0.5)
            shares.append(float((one.standing < 0.5).float().mean()))
        points, group = scene.tracks()
        np.savez(
            folder / "tracks.npz",
            times=points.times.cpu().numpy(),
            points=points.points.cpu().numpy(),
            seen=points.seen.cpu().numpy(),
            group=group.cpu().numpy(),
        )
        return sum(shares) / len(shares)
