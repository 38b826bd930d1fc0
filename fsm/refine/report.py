"""How much a refinement helped, on frames it has not seen: numbers and a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.errors import InputError
from fsm.evaluate.metrics import ImageScore, Metrics, mean_score
from fsm.evaluate.pictures import contact_sheet, error_map
from fsm.files import atomic_file, write_json
from fsm.renderers.base import Scene
from fsm.views import Views

SHOWN = 6


def pictures(scene: Scene, views: Views) -> Float[Tensor, "v 3 h w"]:
    """What ``scene`` shows at ``views`` [v], without having seen them."""
    return torch.cat([scene.render(views[i].without_rgb()).rgb.cpu() for i in range(len(views))])


def write_report(
    folder: Path, truth: Views, before: Tensor, after: Tensor, about: Mapping[str, Any]
) -> dict[str, ImageScore]:
    """Write metrics.json (``about``, means and every frame's numbers) and pictures.png; the means
    of the pictures ``before`` and ``after``, both [v 3 h w].
    """
    import cv2

    if truth.rgb is None:
        raise InputError("a report needs the true pictures; give views with rgb.")
    metrics, scores = Metrics(), {}
    for name, images in (("before", before), ("after", after)):
        scores[name] = metrics.score(images, truth.rgb, truth.mask)
    means = {name: mean_score(each) for name, each in scores.items()}
    value = {
        **about,
        **{name: {"psnr": m.psnr, "ssim": m.ssim} for name, m in means.items()},
        "frames": [
            {"seconds": float(truth.time[i]), "c2w": truth.c2w[i].tolist()}
            | {name: {"psnr": each[i].psnr, "ssim": each[i].ssim} for name, each in scores.items()}
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
