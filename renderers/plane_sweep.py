"""A first guess of depth from the reference frames themselves: sweep planes, see where the frames agree.

At a quarter of the resolution every target pixel tries a fixed set of inverse depths; for each the chosen references are
sampled and compared. Where they agree the surface probably is. A few convolutions, which also see what the memory has to
say, turn agreement into weights over the hypotheses. Classic multi-view stereo (Collins 1996; MVSNet 2018).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fsm.renderers.reference_sampling import plane_pixels, sample_frames
from fsm.views import Views, resize_images

STRIDE = 4
FEATURES = 8
NEAREST, RATIO = 2.5, 1.4  # inverse depths in model units: NEAREST, NEAREST / RATIO, ... and infinity


class PlaneSweep(nn.Module):
    """Expected inverse depth of every target pixel over ``planes`` hypotheses, model units."""

    hypotheses: Tensor

    def __init__(self, planes: int, context: int, width: int = 48) -> None:
        super().__init__()
        rho = torch.tensor([0.0] + [NEAREST * RATIO**-i for i in reversed(range(planes - 1))])
        self.register_buffer("hypotheses", rho, persistent=False)
        self.features = nn.Conv2d(3, FEATURES, kernel_size=2 * STRIDE, stride=STRIDE, padding=STRIDE // 2)
        self.enter = nn.Conv2d(2 * planes + context, width, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.leave = nn.Conv2d(width, planes, 3, padding=1)
        self.sharpness = nn.Parameter(torch.tensor(20.0))
        # Untrained, it is plain stereo: weights from colour agreement alone.
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def forward(
        self, requests: Views, references: Views, chosen: Int[Tensor, "b v k"], context: Float[Tensor, "b v c h w"]
    ) -> Float[Tensor, "b v 1 h w"]:
        """Inverse depth at full resolution; ``context`` is what the tokens pass on."""
        coarse = (requests.hw[0] // STRIDE, requests.hw[1] // STRIDE)
        small = requests.without_rgb().resized(coarse)
        used, chosen = chosen.unique(return_inverse=True)  # the cost must not grow with the length of the clip
        references = references[used]
        cameras = references.without_rgb().resized((references.hw[0] // STRIDE, references.hw[1] // STRIDE))
        maps = self._maps(references, cameras.hw)
        cost = self._disagreement(small, cameras, maps, chosen)
        b, v, d, g = cost.shape[:4]
        seen = torch.cat([cost.reshape(b, v, d * g, *coarse), resize_images(context, coarse)], dim=2).flatten(0, 1)
        x = F.gelu(self.enter(seen))
        for layer in self.body:
            x = x + F.gelu(layer(x))
        logits = self.leave(x).float().unflatten(0, (b, v)) - self.sharpness * cost[:, :, :, 0]
        rho = (torch.softmax(logits, dim=2) * self.hypotheses[:, None, None]).sum(2)
        return F.interpolate(rho, size=requests.hw, mode="bilinear", align_corners=False)[:, :, None]

    def _maps(self, references: Views, hw: tuple[int, int]) -> Float[Tensor, "b n c h w"]:
        """The references at low resolution: colours, then learnt features."""
        assert references.rgb is not None
        frames = references.rgb.flatten(0, 1)
        learnt = torch.tanh(self.features(frames - 0.5).float())
        learnt = F.interpolate(learnt, size=hw, mode="bilinear", align_corners=False)
        return torch.cat([resize_images(frames, hw), learnt], dim=1).unflatten(0, references.c2w.shape[:2])

    def _disagreement(
        self, requests: Views, cameras: Views, maps: Float[Tensor, "b n c hn wn"], chosen: Int[Tensor, "b v k"]
    ) -> Float[Tensor, "b v d 2 h w"]:
        """Spread of colours and of features over the references that see the point, at each of the inverse depths."""
        pixels = plane_pixels(requests, cameras, chosen, self.hypotheses)
        d, h = pixels.shape[3:5]
        samples, inside = sample_frames(maps, chosen, pixels.flatten(3, 4))  # the planes below one another
        count = inside.sum(2)
        mean = (samples * inside).sum(2) / count.clamp_min(1.0)
        spread = ((samples - mean[:, :, None]).abs() * inside).sum(2) / count.clamp_min(1.0)
        unseen = 0.2 * (count < 2.0).float()  # one witness proves nothing
        groups = [spread[:, :, :3].mean(2, keepdim=True), spread[:, :, 3:].mean(2, keepdim=True)]
        return (torch.cat(groups, dim=2) + unseen).unflatten(3, (d, h)).transpose(2, 3)
