"""How much a refinement helped, on frames it has not seen: numbers and a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fsm.datasets.base import Clip
from fsm.datasets.rendered import RenderedClip
from fsm.errors import InputError
from fsm.evaluate.metrics import ImageScore, Metrics, mean_score
from fsm.evaluate.pictures import contact_sheet, error_map
from fsm.files import atomic_file, write_json
from fsm.renderers.base import Scene
from fsm.views import Views

SHOWN = 6
REPORTED = ("psnr", "ssim", "psnr_moving", "psnr_standing")


def pictures(scene: Scene, views: Views) -> Float[Tensor, "v 3 h w"]:
    """What ``scene`` shows at ``views`` [v], without having seen them."""
    return torch.cat([scene.render(views[i].without_rgb()).rgb.cpu() for i in range(len(views))])


def write_report(
    folder: Path,
    truth: Views,
    before: Tensor,
    after: Tensor,
    about: Mapping[str, Any],
    moving: Bool[Tensor, "v 1 h w"] | None = None,
) -> dict[str, ImageScore]:
    """Write metrics.json (``about``, means and every frame's numbers) and pictures.png; the means
    of the pictures ``before`` and ``after``, both [v 3 h w]. ``moving`` marks the pixels that show
    what moves, where that is known.
    """
    import cv2

    if truth.rgb is None:
        raise InputError("a report needs the true pictures; give views with rgb.")
    metrics, scores = Metrics(), {}
    for name, images in (("before", before), ("after", after)):
        scores[name] = metrics.score(images, truth.rgb, truth.mask, moving)
    means = {name: mean_score(each) for name, each in scores.items()}
    value = {
        **about,
        **{name: _plain(m) for name, m in means.items()},
        "frames": [
            {"seconds": float(truth.time[i]), "c2w": truth.c2w[i].tolist()}
            | {name: _plain(each[i]) for name, each in scores.items()}
            for i in range(len(truth))
        ],
        "metrics": metrics.describe(),
    }
    write_json(folder / "metrics.json", value)
    chosen = torch.linspace(0, len(truth) - 1, min(SHOWN, len(truth))).round().long().tolist()
    rows = {"ground truth": truth.rgb[chosen], "before": before[chosen], "after": after[chosen]}
    rows["error after (yellow: 1/4 and more)"] = error_map(after[chosen], truth.rgb[chosen])
    sheet = contact_sheet(
        rows, [f"{float(truth.time[i]):.2f} s, {scores['after'][i].psnr:.1f} dB" for i in chosen]
    )
    with atomic_file(folder / "pictures.png") as temporary:
        if not cv2.imwrite(str(temporary), sheet[..., ::-1].copy()):
            raise InputError(f"{folder / 'pictures.png'} cannot be written; check the disk.")
    return means


def known_motion(clip: Clip, truth: Views) -> Bool[Tensor, "v 1 h w"] | None:
    """Which pixels of ``truth`` show what moves; None where ``clip`` does not know."""
    return clip.moving(truth.without_rgb()) if isinstance(clip, RenderedClip) else None


def _plain(score: ImageScore) -> dict[str, float]:
    """PSNR and SSIM, and PSNR of moving and standing pixels where they are known."""
    values = {name: getattr(score, name) for name in REPORTED}
    return {name: value for name, value in values.items() if value is not None}
