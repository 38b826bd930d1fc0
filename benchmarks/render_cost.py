"""What a picture costs once the memory exists.

* One target of a saved and reopened scene, after 8 and after 128 input frames: the same.
* 24 targets one by one from a cached memory, against encoding all inputs again for every target,
  which is the structure of the released implementation. Both render the same pictures (checked).
  The target is for the plain head, which released weights have; what the reference head adds to
  every picture, cached or not, lowers the ratio.

Preset ``tiny`` with its reference head, and with the plain head of released weights; random
weights, random pixels.

    python -m benchmarks.render_cost
"""

import dataclasses
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.common import (
    Verdicts,
    alternate,
    cpu_seconds,
    medians,
    paired,
    parser,
    print_gemm_types,
    start,
)
from fsm.memory_scene import MemoryScene
from fsm.model import FSM, ModelConfig
from fsm.renderers.heads.lvsm import LvsmHeadConfig
from fsm.train.config import load_preset
from fsm.views import Views

HW, TARGETS = (128, 128), 24
FEW, MANY, ENCODED = 8, 128, 32  # input frames


def arc(count: int, offset: float = 0.0, *, rgb: bool = True) -> Views:
    """Views along an arc, ten a second, all within the same two seconds and the same metre."""
    at = (torch.arange(count) + offset) / count
    c2w = torch.eye(4).repeat(count, 1, 1)
    angle = 0.3 * (at - 0.5)
    c2w[:, 0, 0], c2w[:, 0, 2], c2w[:, 2, 0], c2w[:, 2, 2] = (
        angle.cos(),
        angle.sin(),
        -angle.sin(),
        angle.cos(),
    )
    c2w[:, 0, 3] = at
    intrinsics = torch.tensor([120.0, 120.0, 64.0, 64.0]).repeat(count, 1)
    return Views(c2w, intrinsics, 2.0 * at, HW, torch.rand(count, 3, *HW) if rgb else None)


def reopened(model: FSM, count: int) -> MemoryScene:
    """A scene of ``count`` input frames, saved and loaded."""
    with tempfile.TemporaryDirectory() as folder:
        model.reconstruct(arc(count)).save(Path(folder) / "scene")
        return MemoryScene.load(Path(folder) / "scene", lambda _: model)


def growth(model: FSM, repeats: int) -> tuple[float, float, float]:
    """CPU milliseconds of one target after FEW and after MANY inputs, and the paired ratio."""
    target = arc(1, 0.5, rgb=False)
    scenes = {count: reopened(model, count) for count in (FEW, MANY)}
    seconds = alternate({str(n): lambda s=s: s.render(target) for n, s in scenes.items()}, repeats)
    few, many = seconds[str(FEW)], seconds[str(MANY)]
    times = medians(seconds)
    return 1e3 * times[str(FEW)], 1e3 * times[str(MANY)], paired(many, few)


def caching(model: FSM) -> tuple[float, float, float]:
    """CPU seconds of encoding once, of TARGETS pictures one by one from that memory, and of
    encoding for every picture.
    """
    inputs, targets = arc(ENCODED), arc(TARGETS, 0.5, rgb=False)
    model.reconstruct(inputs).render(targets[0])
    began = time.process_time()
    scene = model.reconstruct(inputs)
    encode, cached, encoded = time.process_time() - began, 0.0, 0.0
    pictures: list[torch.Tensor] = []
    for i in range(TARGETS):  # in turn, so that both meet the same neighbours
        cached += cpu_seconds(lambda i=i: pictures.append(scene.render(targets[i]).rgb))
        encoded += cpu_seconds(
            lambda i=i: pictures.append(model.reconstruct(inputs).render(targets[i]).rgb)
        )
        assert torch.equal(*pictures[-2:])
    return encode, cached, encoded


def main() -> None:
    """Print the table and the verdicts for both heads."""
    options = parser(__doc__)
    options.set_defaults(repeats=31)
    args = options.parse_args()
    preset = load_preset("tiny").model
    models = {
        "reference head": preset,
        "plain head": dataclasses.replace(preset, head=LvsmHeadConfig()),
    }
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
    print(
        f"  one target: {few:.1f} ms after {FEW} inputs, {many:.1f} ms after {MANY}; "
        f"paired ratio {ratio:.3f}"
    )
    encode, cached, encoded = caching(model)
    print(
        f"  {TARGETS} targets, {ENCODED} inputs: {cached:.2f} s from a cached memory (made "
        f"in {encode:.2f} s), {encoded:.2f} s ",
        end="",
    )
    print(
        f"encoding for each: {encoded / cached:.1f}x, {encoded / (encode + cached):.1f}x "
        "with making the memory counted"
    )
    verdicts.check(f"{name}: growth of one target's cost", 100.0 * abs(ratio - 1.0), 5.0, unit=" %")
    if config.head.kind == "lvsm":  # the released implementation's own head
        verdicts.check(
            f"{name}: {TARGETS} targets from a cached memory, times faster",
            encoded / cached,
            15.0,
            at_least=True,
        )


if __name__ == "__main__":
    main()
