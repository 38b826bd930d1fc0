"""What a picture costs once the memory exists.

* One target of a saved and reopened scene, after 8 and after 128 input frames: the same.
* 24 targets one by one from a cached memory, against encoding all inputs again for every target, which is the structure of
  the released implementation. Both render the same pictures (checked).

Preset ``tiny`` with its reference head, and with the plain head of released weights; random weights, random pixels.

    python -m benchmarks.render_cost
"""

import dataclasses
import tempfile
from pathlib import Path

import torch

from benchmarks.common import Verdicts, alternate, cpu_seconds, medians, paired, parser, print_gemm_types, start
from fsm.memory_scene import MemoryScene
from fsm.model import FSM, ModelConfig
from fsm.train.config import load_preset
from fsm.views import Views

HW, TARGETS = (128, 128), 24
FEW, MANY, ENCODED = 8, 128, 32  # input frames


def arc(count: int, offset: float = 0.0, *, rgb: bool = True) -> Views:
    """Views along an arc, ten a second, all within the same two seconds and the same metre."""
    at = (torch.arange(count) + offset) / count
    c2w = torch.eye(4).repeat(count, 1, 1)
    angle = 0.3 * (at - 0.5)
    c2w[:, 0, 0], c2w[:, 0, 2], c2w[:, 2, 0], c2w[:, 2, 2] = angle.cos(), angle.sin(), -angle.sin(), angle.cos()
    c2w[:, 0, 3] = at
    intrinsics = torch.tensor([120.0, 120.0, 64.0, 64.0]).repeat(count, 1)
    return Views(c2w, intrinsics, 2.0 * at, HW, torch.rand(count, 3, *HW) if rgb else None)


def reopened(model: FSM, count: int) -> MemoryScene:
    """A scene of ``count`` input frames, saved and loaded."""
    with tempfile.TemporaryDirectory() as folder:
        model.reconstruct(arc(count)).save(Path(folder) / "scene")
        return MemoryScene.load(Path(folder) / "scene", model=model)


def growth(model: FSM, repeats: int) -> tuple[float, float, float]:
    """CPU milliseconds of one target after FEW and after MANY inputs, and the paired ratio."""
    target = arc(1, 0.5, rgb=False)
    scenes = {count: reopened(model, count) for count in (FEW, MANY)}
    seconds = alternate({str(n): lambda s=s: s.render(target) for n, s in scenes.items()}, repeats)
    few, many = seconds[str(FEW)], seconds[str(MANY)]
    times = medians(seconds)
    return 1e3 * times[str(FEW)], 1e3 * times[str(MANY)], paired(many, few)


def caching(model: FSM) -> tuple[float, float]:
    """CPU seconds of TARGETS pictures from one memory (encoding it included), and with encoding for every picture."""
    inputs, targets = arc(ENCODED), arc(TARGETS, 0.5, rgb=False)
    pictures: dict[str, list[torch.Tensor]] = {"cached": [], "encoded": []}

    def cached() -> None:
        scene = model.reconstruct(inputs)
        pictures["cached"] = [scene.render(targets[i]).rgb for i in range(TARGETS)]

    def encoded() -> None:
        pictures["encoded"] = [model.reconstruct(inputs).render(targets[i]).rgb for i in range(TARGETS)]

    model.reconstruct(inputs).render(targets[0])
    seconds = cpu_seconds(cached), cpu_seconds(encoded)
    assert torch.equal(torch.cat(pictures["cached"]), torch.cat(pictures["encoded"]))
    return seconds


def main() -> None:
    """Print the table and the verdicts for both heads."""
    options = parser(__doc__)
    options.set_defaults(repeats=31)
    args = options.parse_args()
    preset = load_preset("tiny").model
    models = {"reference head": preset, "plain head": dataclasses.replace(preset, reference_head=None)}
    start(
        "Cost of a picture",
        preset="tiny",
        size="128x128",
        weights="float32",
        newton_schulz=preset.encoder.block.ns_dtype,
    )
    verdicts = Verdicts()
    for name, config in models.items():
        measure(name, config, args.repeats, verdicts)
    verdicts.close()


def measure(name: str, config: ModelConfig, repeats: int, verdicts: Verdicts) -> None:
    """Both measurements for one model."""
    model = FSM(config).eval()
    scene, target = model.reconstruct(arc(FEW)), arc(1, 0.5, rgb=False)
    print(f"\n{name}")
    print_gemm_types(lambda: scene.render(target), torch.float32, allow=["float64"])  # camera poses
    few, many, ratio = growth(model, repeats)
    print(f"  one target: {few:.1f} ms after {FEW} inputs, {many:.1f} ms after {MANY}; paired ratio {ratio:.3f}")
    once, again = caching(model)
    print(
        f"  {TARGETS} targets, {ENCODED} inputs: {once:.2f} s from one memory, encoding included; {again:.2f} s encoding each time"
    )
    verdicts.check(f"{name}: growth of one target's cost", 100.0 * abs(ratio - 1.0), 5.0, unit=" %")
    verdicts.check(f"{name}: cached memory, times faster", again / once, 15.0, at_least=True)


if __name__ == "__main__":
    main()
