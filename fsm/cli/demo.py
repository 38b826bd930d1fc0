"""``fsm demo``: the whole product on the built-in clip, in under a minute on a laptop."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fsm.cli.common import Backend, check_backend, check_output, choose_device, flag
from fsm.runs import tracked

if TYPE_CHECKING:
    from torch import Tensor

    from fsm.datasets.rendered import RenderedClip
    from fsm.memory_scene import MemoryScene
    from fsm.renderers.gaussians.scene import GaussianScene
    from fsm.views import Views

HOLD_OUT = 8
FILM_FRAMES = 72
FILM_FPS = 24.0
FROZEN = "frozen time, camera moves"
ORBIT_DEGREES = 20.0
ORBIT_VIEWS = 5
DIGITS = {"psnr": 2, "ssim": 4, "psnr_moving": 2, "psnr_standing": 2}
"""Metrics of metrics.json and their decimal places."""


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
        """Frames of the clip that were held out, views beside its path, which no input frame
        shows, and cameras that move while time stands still.
        """
        import cv2
        import torch

        from fsm.evaluate.novel import cameras_beside, orbit_at
        from fsm.evaluate.pictures import contact_sheet, error_map, stacked
        from fsm.files import atomic_file, write_json

        frozen = held_out[len(held_out) // 2]
        orbit, angles = orbit_at(clip, frozen, ORBIT_DEGREES, ORBIT_VIEWS)
        requests = {
            "held-out frames": clip.cameras[held_out],
            "novel views": cameras_beside(clip, held_out, clip.cameras.hw),
            FROZEN: orbit,
        }
        summary, rows, around = {}, {}, {}
        for name, request in requests.items():
            truth = clip.truth(request).rgb
            summary[name], made = _judged(scene, clip, inputs, request, truth)
            if name == FROZEN:
                around = {f"{name}: ours": made["ours"], f"{name}: truth": truth}
                continue
            rows |= {f"{name}: truth": truth, f"{name}: ours": made["ours"]}
            rows |= {
                f"{name}: flow blend": made["flow"],
                f"{name}: our error": error_map(made["ours"], truth),
            }
        summary |= {
            "frames_read": len(inputs),
            "seconds_to_reconstruct": round(encode, 3),
            "torch": torch.__version__,
        }
        write_json(self.output / "metrics.json", summary)
        times = [f"{float(clip.cameras.time[i]):.2f} s" for i in held_out]
        at = f"{float(clip.cameras.time[frozen]):.2f} s"
        sheet = stacked(
            [
                contact_sheet(rows, times),
                contact_sheet(around, [f"{at}, {angle:+.0f} deg" for angle in angles]),
            ]
        )
        with atomic_file(self.output / "contact_sheet.png") as temporary:
            cv2.imwrite(str(temporary), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
        _print_summary(summary)


def _judged(
    scene: "MemoryScene | GaussianScene",
    clip: "RenderedClip",
    inputs: "Views",
    request: "Views",
    truth: "Tensor",
) -> "tuple[dict[str, Any], dict[str, Tensor]]":
    """Numbers of ours and of the baselines for ``request``, and their pictures."""
    from fsm.evaluate.baselines import BASELINES
    from fsm.evaluate.metrics import Metrics, mean_score

    metrics, moving = Metrics(), clip.moving(request)
    began = time.perf_counter()
    made = {"ours": scene.render(request).rgb.cpu()}
    seconds = (time.perf_counter() - began) / len(request)
    made |= {label: baseline(inputs, request) for label, baseline in BASELINES.items()}
    numbers: dict[str, Any] = {}
    for label, images in made.items():
        score = mean_score(metrics.score(images, truth, moving=moving))
        found = {name: getattr(score, name) for name in DIGITS}
        numbers[label] = {
            name: None if value is None else round(value, DIGITS[name])
            for name, value in found.items()
        }
    numbers["seconds_per_frame"] = round(seconds, 4)
    return numbers, made


def _print_summary(summary: "dict[str, Any]") -> None:
    from rich.console import Console
    from rich.table import Table

    def printed(score: "dict[str, float | None]", name: str) -> str:
        return "-" if score[name] is None else f"{score[name]:.{DIGITS[name] - (name == 'ssim')}f}"

    for name in ("held-out frames", "novel views", FROZEN):
        table = Table(name, "PSNR dB", "SSIM", "moving dB", "standing dB")
        for label, score in summary[name].items():
            if isinstance(score, dict):
                table.add_row(label, *(printed(score, metric) for metric in DIGITS))
        Console().print(table)
    Console().print(
        f"{summary['frames_read']} frames read in {summary['seconds_to_reconstruct']} s, "
        f"{summary['novel views']['seconds_per_frame']} s per rendered frame"
    )
