"""``fsm demo``: the whole product on the built-in clip, in under a minute on a laptop."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fsm.cli.common import Backend, check_backend, check_output, choose_device, flag
from fsm.runs import tracked

if TYPE_CHECKING:
    from fsm.datasets.rendered import RenderedClip
    from fsm.memory_scene import MemoryScene
    from fsm.renderers.gaussians.scene import GaussianScene
    from fsm.views import Views

HOLD_OUT = 8
FILM_FRAMES = 72
FILM_FPS = 24.0


@dataclass(frozen=True)
class Demo:
    """Reconstruct the built-in clip with the built-in weights: film, contact sheet, metrics."""

    output: Annotated[Path, flag("FOLDER", short="-o")] = Path("outputs/demo")
    """Where demo.mp4, contact_sheet.png, metrics.json and scene/ go."""
    model: Annotated[str, flag("MODEL")] = "fsm-tiny"
    """Bundled name, folder, or hub name."""
    device: Annotated[str, flag("DEVICE")] = "auto"
    """auto, cpu or cuda."""
    backend: Backend = "auto"
    """What rasterises Gaussians: gsplat (CUDA), cpu, plain (slow); auto: gsplat where it works."""

    def run(self) -> None:
        """Reconstruct, render, compare with the truth, and say where it all is."""
        from fsm.cli.reconstruct import choose_frames
        from fsm.datasets.open import open_clip
        from fsm.evaluate.novel import rendered
        from fsm.model import FSM
        from fsm.open_scene import with_backend

        device = choose_device(self.device)
        check_backend(self.backend, device)
        check_output(self.output)
        clip = rendered(open_clip("demo"))
        seen = choose_frames(range(len(clip)), 0, HOLD_OUT)
        held_out = [i for i in range(len(clip)) if i not in seen]
        model = FSM.from_pretrained(self.model, device=device)
        inputs = clip.views(seen)
        began = time.perf_counter()
        scene = with_backend(model.reconstruct(inputs), self.backend)
        encode = time.perf_counter() - began
        scene.save(self.output / "scene")
        self._film(scene)
        self._compare(scene, clip, inputs, held_out, encode)
        print(f"film, contact sheet, metrics and scene in {self.output}/")
        print(f"explore it in a browser: fsm view {self.output / 'scene'} --clip demo")

    def _film(self, scene: "MemoryScene | GaussianScene") -> None:
        from fsm.renderers.film.camera_paths import make_path
        from fsm.renderers.film.sequence import render_sequence
        from fsm.renderers.film.video import video_writer

        path = make_path("orbit", "sweep", scene.inputs.to("cpu"), FILM_FRAMES, scene.hw, FILM_FPS)
        with video_writer(self.output / "demo.mp4", FILM_FPS) as write:
            for rendering in tracked(render_sequence(scene, path), "film", len(path)):
                write(rendering.rgb[0])

    def _compare(
        self,
        scene: "MemoryScene | GaussianScene",
        clip: "RenderedClip",
        inputs: "Views",
        held_out: list[int],
        encode: float,
    ) -> None:
        """Frames of the clip that were held out, and views beside its path, which no input frame
        shows.
        """
        import cv2
        import torch

        from fsm.evaluate.baselines import BASELINES
        from fsm.evaluate.metrics import Metrics, mean_score
        from fsm.evaluate.novel import cameras_beside
        from fsm.evaluate.pictures import contact_sheet, error_map
        from fsm.files import atomic_file, write_json

        metrics, summary, rows = Metrics(), {}, {}
        beside = cameras_beside(clip, held_out, clip.cameras.hw)
        for name, request in (("held-out frames", clip.cameras[held_out]), ("novel views", beside)):
            truth = clip.truth(request).rgb
            began = time.perf_counter()
            rgb = scene.render(request).rgb.cpu()
            seconds = (time.perf_counter() - began) / len(request)
            made = {"ours": rgb} | {
                label: baseline(inputs, request) for label, baseline in BASELINES.items()
            }
            scores = {
                label: mean_score(metrics.score(images, truth)) for label, images in made.items()
            }
            summary[name] = {
                label: {"psnr": round(s.psnr, 2), "ssim": round(s.ssim, 4)}
                for label, s in scores.items()
            }
            summary[name]["seconds_per_frame"] = round(seconds, 4)
            rows |= {f"{name}: truth": truth, f"{name}: ours": rgb}
            rows |= {
                f"{name}: flow blend": made["flow"],
                f"{name}: our error": error_map(rgb, truth),
            }
        summary |= {
            "frames_read": len(inputs),
            "seconds_to_reconstruct": round(encode, 3),
            "torch": torch.__version__,
        }
        write_json(self.output / "metrics.json", summary)
        with atomic_file(self.output / "contact_sheet.png") as temporary:
            sheet = contact_sheet(rows, [f"{float(clip.cameras.time[i]):.2f} s" for i in held_out])
            cv2.imwrite(str(temporary), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
        _print_summary(summary)


def _print_summary(summary: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    for name in ("held-out frames", "novel views"):
        table = Table(name, "PSNR dB", "SSIM")
        for label, score in summary[name].items():
            if isinstance(score, dict):
                table.add_row(label, f"{score['psnr']:.2f}", f"{score['ssim']:.3f}")
        Console().print(table)
    Console().print(
        f"{summary['frames_read']} frames read in {summary['seconds_to_reconstruct']} s, "
        f"{summary['novel views']['seconds_per_frame']} s per rendered frame"
    )
