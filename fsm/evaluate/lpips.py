"""LPIPS v0.1, the learned perceptual distance of Zhang et al. 2018 (arXiv:1801.03924), without
torchvision.

A trunk classifies ImageNet, small linear heads weigh its feature differences. Trunk files are
torchvision's own, found by path, environment variable or torch hub's cache; the heads come with the
``lpips`` and ``torchmetrics`` packages. Nothing is ever downloaded or chosen at random: a distance
from random weights would look like a number and mean nothing.
"""

import hashlib
import importlib.util
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fsm.errors import InputError

Net = Literal["alex", "squeeze", "vgg"]

WEIGHTS_VARIABLE = "FSM_LPIPS_WEIGHTS"
HEADS_FILE = "lpips_lins_v0.1.npz"
TRUNK_FILES: dict[str, tuple[str, ...]] = {
    "alex": ("alexnet_features.npz", "alexnet-owt-7be5be79.pth"),
    "squeeze": ("squeezenet1_1_features.npz", "squeezenet1_1-b8a52dc0.pth"),
    "vgg": ("vgg16_features.npz", "vgg16-397923af.pth"),
}
# Layers of ``features`` whose outputs are compared, by torchvision's numbering.
TAPS: dict[str, tuple[int, ...]] = {
    "alex": (1, 4, 7, 9, 11),
    "squeeze": (1, 4, 7, 9, 10, 11, 12),
    "vgg": (3, 8, 15, 22, 29),
}
HEAD_WIDTHS: dict[str, tuple[int, ...]] = {
    "alex": (64, 192, 384, 256, 256),
    "squeeze": (64, 128, 256, 384, 384, 512, 512),
    "vgg": (64, 128, 256, 512, 512),
}
MIN_SIZE = 32  # below this the AlexNet trunk has no pixel left
# The trunks' ImageNet statistics on images in [-1, 1], as the published heads were trained with.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """Perceptual distance of image pairs; build it with ``LPIPS.load``, a bare constructor has no
    weights to trust.

    Frozen, differentiable in both images, fp32 outside the trunk's convolutions (which follow
    autocast).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net: Net = net
        self.features = _trunk(net)
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None])
        for i, width in enumerate(HEAD_WIDTHS[net]):
            self.register_buffer(f"lin{i}", torch.full((1, width, 1, 1), torch.nan))
        self.requires_grad_(False).eval()

    @staticmethod
    def load(net: Net, weights: Path | str | None = None) -> "LPIPS":
        """LPIPS with published weights, on the CPU.

        ``weights`` is a trunk file (.npz or torchvision's .pth) or a folder that holds one; without
        it the environment variable FSM_LPIPS_WEIGHTS (file or folder), then torch hub's cache are
        looked through. Raises ``InputError`` that lists the places where the trunk or the heads
        were missed, or says what is wrong with a file.
        """
        trunk = _find_trunk(net, weights)
        heads = _read_heads(net, trunk.parent)
        # no random initialisation: whatever is not in the files has no values at all
        with torch.device("meta"):
            model = LPIPS(net)
        expected = {k: v for k, v in model.state_dict().items() if k.startswith("features.")}
        state = _checked(_read_tensors(trunk), expected, trunk)
        state["shift"] = torch.tensor(SHIFT)[:, None, None]
        state["scale"] = torch.tensor(SCALE)[:, None, None]
        model.load_state_dict({**state, **heads}, strict=True, assign=True)
        return model.requires_grad_(False).eval()

    def forward(
        self, a: Float[Tensor, "n 3 h w"], b: Float[Tensor, "n 3 h w"]
    ) -> Float[Tensor, "n"]:
        """Distance of each pair of sRGB images in [0, 1]; 0 for equal ones. Sides of at least 32
        pixels.
        """
        if min(a.shape[-2:]) < MIN_SIZE:
            raise InputError(
                f"LPIPS needs images of at least {MIN_SIZE} pixels a side, found "
                f"{tuple(a.shape[-2:])}."
            )
        return total(self.maps(a, b))

    def maps(
        self, a: Float[Tensor, "n 3 h w"], b: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, "n _ _"], ...]:
        """The distances of each tap at its own size; their means add up to the distance."""
        # One pass per image instead of one of both: a target without gradient then costs no
        # backward.
        return tuple(
            ((_unit(fa) - _unit(fb)).square() * self.get_buffer(f"lin{i}")).sum(1)
            for i, (fa, fb) in enumerate(zip(self._taps(a), self._taps(b), strict=True))
        )

    def fingerprint(self) -> str:
        """Hash (first 16 digits of SHA-256) of all weights, for the header of a report."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _taps(self, rgb: Tensor) -> Iterator[Tensor]:
        x = (rgb.float() * 2.0 - 1.0 - self.shift) / self.scale
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in TAPS[self.net]:
                yield x.float()


def available(net: Net, weights: Path | str | None = None) -> bool:
    """Whether ``LPIPS.load`` with the same arguments would find usable weights."""
    try:
        LPIPS.load(net, weights)
    except InputError:
        return False
    return True


def total(maps: Sequence[Float[Tensor, "n _ _"]]) -> Float[Tensor, "n"]:
    """The distance whose parts are the taps' ``maps``."""
    distance = maps[0].new_zeros(len(maps[0]))
    for each in maps:
        distance = distance + each.mean((1, 2))
    return distance


def spatial(maps: Sequence[Float[Tensor, "n _ _"]], hw: tuple[int, int]) -> Float[Tensor, "n h w"]:
    """Where images differ: the sum of all taps' ``maps``, each enlarged bilinearly to ``hw``."""
    parts = [
        F.interpolate(m[:, None], size=hw, mode="bilinear", align_corners=False)[:, 0] for m in maps
    ]
    return torch.stack(parts).sum(0)


def _unit(x: Tensor) -> Tensor:
    """Unit length over channels. The constant keeps the gradient finite where a ReLU left nothing
    but zeros.
    """
    return x / (x.square().sum(1, keepdim=True) + 1e-16).sqrt()


class _Fire(nn.Module):
    """SqueezeNet's block: a narrow 1x1 convolution feeding a 1x1 and a 3x3 one, side by side."""

    def __init__(self, width: int, narrow: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, narrow, 1)
        self.expand1x1 = nn.Conv2d(narrow, expand, 1)
        self.expand3x3 = nn.Conv2d(narrow, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1))


def _trunk(net: Net) -> nn.Sequential:
    """Convolutional part of torchvision's network up to the last tap, with its numbering of
    layers.
    """

    def pool(ceil: bool = False) -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=ceil)

    if net == "alex":
        stem = [nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), pool()]
        middle = [
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            pool(),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
        ]
        tail = [
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
        ]
        return nn.Sequential(*stem, *middle, *tail)
    if net == "squeeze":
        stem = [
            nn.Conv2d(3, 64, 3, stride=2),
            nn.ReLU(),
            pool(True),
            _Fire(64, 16, 64),
            _Fire(128, 16, 64),
        ]
        middle = [pool(True), _Fire(128, 32, 128), _Fire(256, 32, 128)]
        tail = [
            pool(True),
            _Fire(256, 48, 192),
            _Fire(384, 48, 192),
            _Fire(384, 64, 256),
            _Fire(512, 64, 256),
        ]
        return nn.Sequential(*stem, *middle, *tail)
    layers: list[nn.Module] = []
    width = 3
    for stage, (depth, channels) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))):
        if stage:
            layers.append(nn.MaxPool2d(2, 2))
        for _ in range(depth):
            layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU()]
            width = channels
    return nn.Sequential(*layers)


def _find_trunk(net: Net, weights: Path | str | None) -> Path:
    searched: list[str] = []
    if weights is not None:
        places = [(Path(weights), "the given path")]
    else:
        places = [(Path(torch.hub.get_dir()) / "checkpoints", "torch hub's cache")]
        if os.environ.get(WEIGHTS_VARIABLE):
            places.insert(0, (Path(os.environ[WEIGHTS_VARIABLE]), WEIGHTS_VARIABLE))
    for place, origin in places:
        if place.is_file():
            return place
        if not place.is_dir() and origin != "torch hub's cache":
            raise InputError(
                f"LPIPS weights: {origin} {place} does not exist; name a trunk file or the "
                "folder with it."
            )
        for name in TRUNK_FILES[net]:
            if (place / name).is_file():
                return place / name
        searched.append(f"{place} ({origin})")
    names = " or ".join(TRUNK_FILES[net])
    raise InputError(
        f"LPIPS ({net}) finds no trunk {names} in {' or '.join(searched)}; put "
        "torchvision's file there, or name "
        f"it with {WEIGHTS_VARIABLE}."
    )


def _read_heads(net: Net, folder: Path) -> dict[str, Tensor]:
    """Heads as ``lin0`` ...: from ``folder``, else from the installed packages that carry them."""

    def packaged(package: str, inner: str) -> Path | None:
        # locates without importing: torchmetrics alone takes a second
        spec = importlib.util.find_spec(package)
        roots = [] if spec is None else list(spec.submodule_search_locations or [])
        return Path(roots[0]) / inner if roots else None

    candidates = [
        (folder / HEADS_FILE, f"{net}."),
        (packaged("lpips", f"weights/v0.1/{net}.pth"), ""),
        (packaged("torchmetrics", f"functional/image/lpips_models/{net}.pth"), ""),
    ]
    for path, prefix in candidates:
        if path is not None and path.is_file():
            names = {f"{prefix}lin{i}.model.1.weight": w for i, w in enumerate(HEAD_WIDTHS[net])}
            expected = {
                name: torch.empty(1, width, 1, 1, device="meta") for name, width in names.items()
            }
            tensors = _checked(_read_tensors(path), expected, path)
            return {f"lin{i}": tensors[name] for i, name in enumerate(names)}
    raise InputError(
        f"LPIPS ({net}) finds no linear heads: neither {folder / HEADS_FILE} nor an "
        "installed lpips or torchmetrics "
        "package has them; pip install torchmetrics."
    )


def _checked(
    found: Callable[[str], Tensor], expected: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    result = {}
    for name, wanted in expected.items():
        try:
            value = found(name)
        except KeyError:
            raise InputError(
                f"{path} lacks {name!r}; it is not the LPIPS file that was asked for."
            ) from None
        if value.shape != wanted.shape or not value.is_floating_point():
            raise InputError(
                f"{path}: {name} has shape {tuple(value.shape)}, expected floats of "
                f"{tuple(wanted.shape)}; wrong file."
            )
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"{path}: {name} has non-finite values; the file is damaged.")
        result[name] = value.detach().float()
    return result


def _read_tensors(path: Path) -> Callable[[str], Tensor]:
    """Reader of single tensors from a .npz or .pth file, without ever executing a pickle."""
    import numpy as np

    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                arrays = {k: torch.from_numpy(np.array(archive[k])) for k in archive.files}
            return arrays.__getitem__
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
            raise InputError(
                f"{path} holds {type(state).__name__}, expected a flat state dict of tensors."
            )
        return state.__getitem__
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        RuntimeError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        if isinstance(error, InputError):
            raise
        sentence = " ".join(str(error).split())[:120]
        raise InputError(
            f"{path} cannot be read as LPIPS weights ({sentence}); use torchvision's file."
        ) from error
