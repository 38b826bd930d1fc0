"""LPIPS against the published example distances, a VGG written out again, and damaged or missing
weights.
"""

import json
import pickle
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fsm.errors import InputError
from fsm.evaluate.lpips import (
    LPIPS,
    SCALE,
    SHIFT,
    TAPS,
    Net,
    available,
    spatial,
    total,
)


@pytest.fixture
def weights(shared_data: Path) -> Path:
    return shared_data / "lpips"


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any trunk: empty hub cache, no variable."""
    monkeypatch.delenv("FSM_LPIPS_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path


def read(path: Path) -> torch.Tensor:
    return torch.from_numpy(iio.imread(path).copy()).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("net", ["alex", "squeeze"])
def test_example_pairs(weights: Path, net: Net) -> None:
    expected = json.loads((weights / "expected.json").read_text())
    model = LPIPS.load(net, weights)
    reference = read(weights / "ex_ref.png")
    for other in ("p0", "p1"):
        found = model(reference, read(weights / f"ex_{other}.png")).item()
        assert found == pytest.approx(expected[net][f"ref_{other}"], abs=2e-6)
    torch.manual_seed(42)
    a, b = torch.rand(10, 3, 100, 100), torch.rand(10, 3, 100, 100)
    assert model(a, b).mean().item() == pytest.approx(expected["random_seed42"][net], abs=2e-6)


def test_per_image_frozen_and_differentiable(weights: Path) -> None:
    model = LPIPS.load("alex", weights)
    assert not any(p.requires_grad for p in model.parameters())
    a, b = torch.rand(3, 3, 40, 48), torch.rand(3, 3, 40, 48)
    both = model(a, b)
    singly = torch.cat([model(a[i : i + 1], b[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(both, singly, rtol=1e-5, atol=1e-7)
    assert torch.equal(model(a, a), torch.zeros(3))

    x = a.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x, b).sum(), x)
    direction = torch.randn_like(a) * 1e-3
    difference = (model(a + direction, b) - model(a - direction, b)).sum() / 2
    assert (gradient * direction).sum().item() == pytest.approx(difference.item(), rel=2e-2)

    black = torch.zeros(1, 3, 40, 48, requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(model(black, b[:1]).sum(), black)[0]).all()


def test_autocast_stays_close(weights: Path) -> None:
    model = LPIPS.load("alex", weights)
    a, b = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    plain = model(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = model(a, b)
    assert reduced.dtype == torch.float32
    torch.testing.assert_close(reduced, plain, rtol=2e-2, atol=0)


def plain_vgg_distance(state: dict[str, torch.Tensor], heads: list[torch.Tensor], a, b) -> float:
    """VGG16's configuration D written as calls, taps after the last ReLU of each stage; float64."""

    def taps(x: torch.Tensor) -> list[torch.Tensor]:
        x = (2 * x - 1 - torch.tensor(SHIFT)[:, None, None]) / torch.tensor(SCALE)[:, None, None]
        x, out = x.double(), []
        for stage in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)):
            x = F.max_pool2d(x, 2) if stage[0] else x
            for i in stage:
                x = F.relu(
                    F.conv2d(
                        x,
                        state[f"features.{i}.weight"].double(),
                        state[f"features.{i}.bias"].double(),
                        padding=1,
                    )
                )
            out.append(x / x.norm(dim=1, keepdim=True))
        return out

    parts = [
        ((x - y) ** 2 * h).sum(1).mean() for x, y, h in zip(taps(a), taps(b), heads, strict=True)
    ]
    return float(sum(parts))


def test_vgg_from_torchvision_file(no_weights: Path) -> None:
    """A state dict with torchvision's VGG16 keys (classifier included) in the hub cache is found
    and used.
    """
    generator = torch.Generator().manual_seed(3)
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    state = {}
    for i, n, m in zip(
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), widths[:-1], widths[1:], strict=True
    ):
        state[f"features.{i}.weight"] = (
            torch.randn(m, n, 3, 3, generator=generator) * (2 / (9 * n)) ** 0.5
        )
        state[f"features.{i}.bias"] = torch.randn(m, generator=generator) * 0.1
    state["classifier.0.weight"] = torch.zeros(4, 4)
    assert not available("vgg")
    path = no_weights / "hub" / "checkpoints" / "vgg16-397923af.pth"
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    assert available("vgg")

    model = LPIPS.load("vgg")
    assert len(TAPS["vgg"]) == 5
    a, b = (
        torch.rand(1, 3, 64, 48, generator=generator),
        torch.rand(1, 3, 64, 48, generator=generator),
    )
    heads = [model.get_buffer(f"lin{i}").double() for i in range(5)]
    assert model(a, b).item() == pytest.approx(plain_vgg_distance(state, heads, a, b), rel=1e-5)


def test_found_by_variable_and_by_file(
    weights: Path, no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folder, file and variable give one model; heads come from the folder or, where absent, from a
    package.
    """
    by_folder = LPIPS.load("squeeze", weights)
    lone = no_weights / "trunk.npz"
    lone.write_bytes((weights / "squeezenet1_1_features.npz").read_bytes())
    by_file = LPIPS.load("squeeze", lone)
    assert not available("squeeze")
    monkeypatch.setenv("FSM_LPIPS_WEIGHTS", str(weights))
    by_variable = LPIPS.load("squeeze")
    assert by_folder.fingerprint() == by_file.fingerprint() == by_variable.fingerprint()
    assert by_folder.fingerprint() != LPIPS.load("alex").fingerprint()


def test_missing_weights_say_where(no_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"alexnet-owt-7be5be79\.pth in .*hub.checkpoints"):
        LPIPS.load("alex")
    with pytest.raises(InputError, match=r"the given path .*nowhere does not exist"):
        LPIPS.load("alex", no_weights / "nowhere")
    monkeypatch.setenv("FSM_LPIPS_WEIGHTS", str(no_weights / "gone"))
    with pytest.raises(InputError, match=r"FSM_LPIPS_WEIGHTS .*gone does not exist"):
        LPIPS.load("alex")


class Payload:
    def __reduce__(self):
        return (open, ("/dev/null",))


@pytest.mark.parametrize(
    "kind", ["truncated", "pickled", "npz_object", "wrong_net", "non_finite", "not_a_dict"]
)
def test_bad_files(no_weights: Path, kind: str) -> None:
    path = no_weights / ("w.npz" if kind in ("npz_object", "wrong_net", "non_finite") else "w.pth")
    alex = {k: v.numpy() for k, v in LPIPS("alex").features.state_dict(prefix="features.").items()}
    if kind == "truncated":
        torch.save({k: torch.from_numpy(v) for k, v in alex.items()}, path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "pickled":
        path.write_bytes(pickle.dumps(Payload(), protocol=2))
    elif kind == "npz_object":
        np.savez(
            path, allow_pickle=True, **{"features.0.weight": np.array([Payload()], dtype=object)}
        )
    elif kind == "wrong_net":
        np.savez(path, allow_pickle=False, **{k: v[:1] for k, v in alex.items()})
    elif kind == "non_finite":
        alex["features.0.bias"] = np.full(64, np.nan, np.float32)
        np.savez(path, allow_pickle=False, **alex)
    else:
        torch.save([1, 2], path)
    with pytest.raises(InputError, match=r"w\.(npz|pth)"):
        LPIPS.load("alex", path)
    assert not available("alex", path)


def test_the_map_shows_where_images_differ(weights: Path) -> None:
    """Taps add up to the distance; their map, at the size of the picture, is large where the
    difference is and nearly nothing far away.
    """
    network = LPIPS.load("alex", weights)
    a = torch.rand(1, 3, 96, 128)
    b = a.clone()
    b[..., :24, :24] = 1 - b[..., :24, :24]
    maps = network.maps(a, b)
    assert torch.equal(total(maps), network(a, b))
    where = spatial(maps, (96, 128))
    assert where.shape == (1, 96, 128)
    assert float(where[:, :24, :24].mean()) > 20 * float(where[:, 72:, 96:].mean())
    assert not bool(spatial(network.maps(a, a), (96, 128)).any())


def test_too_small(weights: Path) -> None:
    with pytest.raises(InputError, match="at least 32 pixels"):
        LPIPS.load("alex", weights)(torch.rand(1, 3, 31, 64), torch.rand(1, 3, 31, 64))
