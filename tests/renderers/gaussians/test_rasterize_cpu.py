"""The compiled rasteriser against the plain one, finite differences, gsplat's picture and
everything odd that a scene may hold.
"""

import dataclasses
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fsm.errors import InputError
from fsm.renderers.gaussians import rasterize_cpu, rasterize_plain
from fsm.renderers.gaussians import rasterize_list_kernels as list_kernels
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.rasterize import rasterize
from fsm.renderers.gaussians.types import Splats
from fsm.views import Views

FIELDS = ("centres", "conics", "depths", "opacities", "colours")


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    """Compiling takes seconds where the cache is empty; no single test shall be blamed for it."""
    splats = with_gradients(scene(4, (8, 8)))
    torch.cat(rasterize_cpu.composite(splats, (8, 8))).sum().backward()


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def scene(
    n: int,
    hw: tuple[int, int],
    size: tuple[float, float] = (0.7, 6.0),
    opacity: tuple[float, float] = (0.02, 1.0),
) -> Splats:
    """Random ellipses, some beyond the picture's border; standard deviations log-uniform in
    ``size``.
    """
    random = torch.rand(11, n, dtype=torch.float64)
    centres = random[:2].T * torch.tensor([hw[1] + 20.0, hw[0] + 20.0]) - 10.0
    deviations = size[0] * (size[1] / size[0]) ** random[2:4].T
    cos, sin = torch.cos(math.pi * random[4]), torch.sin(math.pi * random[4])
    turn = torch.stack([cos, -sin, sin, cos], -1).view(n, 2, 2)
    covariances = turn @ torch.diag_embed(deviations.square()) @ turn.mT + 0.3 * torch.eye(2)
    opacities = opacity[0] + (opacity[1] - opacity[0]) * random[5]
    return splats(centres, covariances, 1.0 + 5.0 * random[6], opacities, random[7:10].T)


def splats(
    centres: Tensor, covariances: Tensor, depths: Tensor, opacities: Tensor, colours: Tensor
) -> Splats:
    inverse = torch.linalg.inv(covariances)
    reach = (2.0 * torch.log((255.0 * opacities).clamp_min(1.0))).sqrt()
    radii = reach[:, None] * covariances[:, [0, 1], [0, 1]].sqrt()
    conics = torch.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], -1)
    fields = (t.float().contiguous() for t in (centres, conics, depths, opacities, colours, radii))
    return Splats(*fields, dropped=0)


def with_gradients(s: Splats) -> Splats:
    return dataclasses.replace(
        s, **{name: getattr(s, name).clone().requires_grad_() for name in FIELDS}
    )


def picture(composite, s: Splats, hw: tuple[int, int]) -> Tensor:
    return torch.cat(composite(s, hw))


def gradients(composite, s: Splats, hw: tuple[int, int]) -> tuple[Tensor, dict[str, Tensor]]:
    s = with_gradients(s)
    drawn = picture(composite, s, hw)
    upstream = torch.randn(drawn.shape, generator=torch.Generator().manual_seed(1)).to(drawn)
    (drawn * upstream).sum().backward()
    return drawn.detach(), {name: getattr(s, name).grad for name in FIELDS}


SCENES = {
    "mixed": {"n": 350, "hw": (67, 100)},
    "pixel-sized": {"n": 700, "hw": (40, 65), "size": (0.05, 0.4)},
    "huge": {"n": 100, "hw": (64, 90), "size": (20.0, 200.0)},
    "opaque stacks": {"n": 1000, "hw": (40, 40), "size": (3.0, 30.0), "opacity": (0.9, 1.0)},
    "needles": {"n": 300, "hw": (80, 80), "size": (0.02, 60.0)},
    "faint": {"n": 800, "hw": (50, 50), "opacity": (0.0, 0.01)},
}


@pytest.mark.parametrize("name", SCENES)
def test_as_close_to_the_truth_as_the_plain_rasteriser(name: str) -> None:
    """Truth is the plain one in float64; in float32 needles lose digits, whoever draws them."""
    hw, example = SCENES[name]["hw"], scene(**SCENES[name])
    exact = dataclasses.replace(
        example, **{field: getattr(example, field).double() for field in FIELDS}
    )
    truth, slopes = gradients(rasterize_plain.composite, exact, hw)
    plain, plain_slopes = gradients(rasterize_plain.composite, example, hw)
    found, found_slopes = gradients(rasterize_cpu.composite, example, hw)
    assert truth[3].max() > 0.01
    assert (found - truth).abs().max() < max(2.0 * float((plain - truth).abs().max()), 2e-6)
    for field in FIELDS:
        size = slopes[field].norm()
        limit = max(2.0 * float((plain_slopes[field] - slopes[field]).norm() / size), 1e-6)
        assert (found_slopes[field] - slopes[field]).norm() / size < limit, field


def test_pixels_end_before_their_transmittance_falls_too_low() -> None:
    """Three layers of alpha 0.97: after two 9e-4 is left, a third would leave 2.7e-5 and is not
    drawn.
    """
    hw, n = (4, 4), 5
    wide = torch.eye(2).expand(n, 2, 2) * 1e8
    layers = splats(
        torch.full((n, 2), 2.0),
        wide,
        torch.arange(1.0, n + 1),
        torch.full((n,), 0.97),
        torch.eye(5)[:, :3] + 0.0,
    )
    rgb, alpha, _ = rasterize_cpu.composite(layers, hw)
    torch.testing.assert_close(
        rgb, torch.tensor([0.97, 0.0291, 0.0])[:, None, None].expand(3, *hw), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(alpha, torch.full((1, *hw), 0.9991), atol=1e-6, rtol=0)


def test_gradients_are_finite_differences_of_the_plain_rasteriser() -> None:
    hw, example = (24, 30), scene(12, (24, 30), size=(2.0, 6.0), opacity=(0.3, 0.8))
    upstream = torch.randn(5, *hw, generator=torch.Generator().manual_seed(1)).double()
    fields = {name: getattr(example, name).double() for name in FIELDS}

    def loss(**changed: Tensor) -> float:
        exact = dataclasses.replace(example, **{**fields, **changed})
        return float((picture(rasterize_plain.composite, exact, hw) * upstream).sum())

    _, found = gradients(rasterize_cpu.composite, example, hw)
    for name in FIELDS:
        for at in torch.randperm(fields[name].numel())[:8].tolist():
            step = torch.zeros_like(fields[name])
            step.view(-1)[at] = 1e-7  # so small that no pixel crosses the limit of 1/255
            slope = (
                loss(**{name: fields[name] + step}) - loss(**{name: fields[name] - step})
            ) / 2e-7
            assert float(found[name].view(-1)[at]) == pytest.approx(slope, rel=2e-3, abs=2e-3), name


@pytest.mark.usefixtures("threads")
def test_same_bits_for_any_number_of_threads() -> None:
    hw, example = (130, 200), scene(5000, (130, 200))
    torch.set_num_threads(1)
    expected, expected_gradients = gradients(rasterize_cpu.composite, example, hw)
    for count in (2, 3, 7):
        torch.set_num_threads(count)
        found, found_gradients = gradients(rasterize_cpu.composite, example, hw)
        assert torch.equal(found, expected)
        for field in FIELDS:
            assert torch.equal(found_gradients[field], expected_gradients[field]), field


def test_agrees_with_gsplat(shared_data: Path) -> None:
    case = load_file(shared_data / "gsplat_reference" / "tiny_case.safetensors")
    gaussians = Gaussians4D.static(
        case["means"],
        case["quats"],
        case["scales"].exp(),
        case["opacities"].sigmoid().flatten(),
        case["coeffs"],
    )
    c2w = torch.eye(4)[None]
    c2w[0, :3, 3] = torch.tensor([0.123, 0.456, -8.0])
    camera = Views(c2w, torch.tensor([[61.5, 61.5, 61.5, 41.0]]), torch.zeros(1), (82, 123))
    drawn = rasterize(gaussians.at(0.0), camera, backend="cpu")
    assert drawn.alpha is not None
    found = torch.cat([drawn.rgb[0], drawn.alpha[0]]).permute(1, 2, 0)
    assert case["out_img"].max() > 0.5
    torch.testing.assert_close(found, case["out_img"], rtol=0, atol=1e-4)
    assert drawn.backend == "cpu"
    assert rasterize(gaussians.at(0.0), camera).backend == "cpu"


def test_nothing_to_draw() -> None:
    empty = scene(0, (5, 7))
    assert torch.equal(picture(rasterize_cpu.composite, empty, (5, 7)), torch.zeros(5, 5, 7))
    _, found = gradients(rasterize_cpu.composite, empty, (5, 7))
    assert found["centres"].shape == (0, 2)


@pytest.mark.parametrize("hw", [(1, 1), (1, 300), (300, 1), (31, 33), (32, 32)])
def test_any_size_of_picture(hw: tuple[int, int]) -> None:
    example = scene(300, hw)
    expected, found = (picture(m.composite, example, hw) for m in (rasterize_plain, rasterize_cpu))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)


def test_opacities_of_zero_and_one() -> None:
    example = scene(400, (40, 40), opacity=(1.0, 1.0))
    example = dataclasses.replace(example, opacities=(torch.rand(400) > 0.5).float())
    expected, expected_gradients = gradients(rasterize_plain.composite, example, (40, 40))
    found, found_gradients = gradients(rasterize_cpu.composite, example, (40, 40))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)
    assert torch.isfinite(found_gradients["opacities"]).all()
    shown = example.opacities > 0
    for field in FIELDS:
        a, b = found_gradients[field][shown], expected_gradients[field][shown]
        assert (a - b).norm() < 1e-5 * b.norm(), field


def test_equal_depths_are_drawn_in_the_given_order() -> None:
    hw, example = (32, 32), scene(500, (32, 32), opacity=(0.5, 1.0))
    example = dataclasses.replace(
        example, depths=torch.where(torch.arange(500) % 2 == 0, 0.0, -0.0)
    )
    expected, found = (picture(m.composite, example, hw) for m in (rasterize_plain, rasterize_cpu))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)


def test_depths_of_either_sign_and_any_size_are_sorted() -> None:
    hw, example = (20, 20), scene(3000, (20, 20), size=(0.5, 3.0))
    depths = torch.randn(3000) * 10.0 ** torch.randint(-30, 30, (3000,))
    example = dataclasses.replace(example, depths=depths)
    expected, found = (
        picture(m.composite, example, hw)[:4] for m in (rasterize_plain, rasterize_cpu)
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("n", [0, 1, 2, 48, 49, 1000, 5000])
@pytest.mark.parametrize("spread", [0, 1, 300, 2**31 - 1])
def test_lists_are_sorted(n: int, spread: int) -> None:
    generator = np.random.default_rng(n)
    keys = generator.integers(-spread - 1, spread + 1, n)
    entries = np.concatenate([[7], (keys << 32) | np.arange(n), [-7]])
    expected = np.concatenate([[7], np.sort(entries[1:-1], kind="stable"), [-7]])
    scratch, histogram = np.empty(max(n, 1), np.int64), np.empty(2**list_kernels.DIGIT, np.int64)
    list_kernels.sort_list(entries, 1, n + 1, scratch, histogram)
    assert np.array_equal(entries, expected)


@pytest.mark.parametrize("value", [1e30, -1e30, math.inf, math.nan])
@pytest.mark.parametrize("field", [*FIELDS, "radii"])
def test_extreme_values_stay_in_their_box(field: str, value: float) -> None:
    """``project_gaussians`` lets none of this through; who makes splats himself may err."""
    hw, example = (64, 64), scene(50, (32, 32), size=(0.5, 2.0))
    example.centres[7] = torch.tensor([50.0, 50.0])
    broken = getattr(example, field).clone()
    broken[7] = value
    broken = dataclasses.replace(example, **{field: broken})
    found, found_gradients = gradients(rasterize_cpu.composite, broken, hw)
    kept = torch.arange(50) != 7
    alone = dataclasses.replace(
        example, **{name: getattr(example, name)[kept] for name in (*FIELDS, "radii")}
    )
    expected, expected_gradients = gradients(rasterize_cpu.composite, alone, hw)
    # the box is the whole picture, the splat what it was
    if (field, value) in (("radii", 1e30), ("radii", math.inf)):
        expected = picture(rasterize_cpu.composite, example, hw)
    assert torch.equal(found[:, :40, :40], expected[:, :40, :40])
    for name in FIELDS:
        assert torch.equal(found_gradients[name][kept], expected_gradients[name]), name


def test_only_float32_on_the_processor() -> None:
    example = scene(3, (4, 4))
    with pytest.raises(InputError, match="float32"):
        rasterize_cpu.composite(
            dataclasses.replace(example, depths=example.depths.double()), (4, 4)
        )


def test_inputs_need_not_be_contiguous_and_are_not_changed() -> None:
    hw, example = (30, 30), scene(40, (30, 30))
    loose = dataclasses.replace(
        example,
        colours=example.colours.T.contiguous().T,
        centres=example.centres.repeat(1, 2)[:, :2],
    )
    copies = [getattr(example, name).clone() for name in FIELDS]
    expected, found = (picture(rasterize_cpu.composite, s, hw) for s in (example, loose))
    assert torch.equal(expected, found)
    assert all(
        torch.equal(a, getattr(example, name)) for a, name in zip(copies, FIELDS, strict=True)
    )


def test_two_threads_draw_at_once() -> None:
    hw, examples = (100, 100), [scene(2000, (100, 100)) for _ in range(4)]
    expected = [gradients(rasterize_cpu.composite, s, hw) for s in examples]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(5):
            found, found_gradients = gradients(rasterize_cpu.composite, examples[i], hw)
            same = all(torch.equal(found_gradients[f], expected[i][1][f]) for f in FIELDS)
            if not (same and torch.equal(found, expected[i][0])):
                wrong.append(i)

    running = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_draws_too() -> None:
    code = """
import os, warnings; warnings.simplefilter("ignore")
import torch; torch.set_num_threads(2)
from tests.renderers.gaussians.test_rasterize_cpu import scene, picture
from fsm.renderers.gaussians.rasterize_cpu import composite
example = scene(500, (60, 60))
before = picture(composite, example, (60, 60))
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(picture(composite, example, (60, 60)), before) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    folder = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == "0"
