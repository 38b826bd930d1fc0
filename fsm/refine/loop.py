"""The refinement loop: a frame, its error, a step of the Gaussians that are there; rounds of
redistribution; exact resume.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fsm.errors import InputError
from fsm.frame_ids import joined
from fsm.refine.adam import Adam, at_moment, rate_columns
from fsm.refine.beside import Beside
from fsm.refine.config import RefineConfig
from fsm.refine.densify import redistribute
from fsm.refine.hold_back import Chosen, Watch, held_back
from fsm.refine.loss import photometric_loss
from fsm.refine.parameters import FreeGaussians
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.rasterize import rasterize
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.gaussians.types import Gaussians3D
from fsm.views import Views

STATE = ("step", "beside_steps", "seconds", "blame", "unit", "taken_in")
LATE = 0.8  # share of the way from first to last rates where held-back frames join
STATIC_TIME = -1.0  # model time of every moment of a static scene


class Refinement:
    """A refinement under way: ``inputs`` [v] are the only pictures it ever sees. Some of them are
    held back: they choose the state that is kept, which is ``scene`` where no other is better.

    ``without`` is what ``scene`` would be had it been made without the frames held back. The best
    number of steps is found from there: a scene shows frames it was made from better than others.

    ``beside`` are further views that steps fit, as long as the model that made them shows the
    frames held back well enough.
    """

    def __init__(
        self,
        scene: GaussianScene,
        inputs: Views,
        config: RefineConfig,
        without: GaussianScene | None = None,
        beside: Beside | None = None,
    ) -> None:
        if inputs.rgb is None:
            raise InputError("refinement needs pictures; give views with rgb.")
        if scene.gaussians.follow is not None:
            raise InputError(
                "the scene has Gaussians that follow trajectories, which refinement cannot move "
                "yet; refine a scene without them."
            )
        self.whole, self.inputs, self.config = scene, inputs.without_rgb(), config
        self.start = self.scene = scene = scene if without is None else without
        views = scene.frame.to_model(inputs.to(scene.device))
        times = views.time.unique()
        spacing = float((times[1:] - times[:-1]).median()) if len(times) > 1 else 0.0
        self.least_time = config.least_frames * spacing
        self.held_back = held_back(inputs, config.hold_back)
        """Positions in ``inputs`` of the frames that choose the state."""
        own = scene if without is None else self.whole
        self.all_views = own.frame.to_model(inputs.to(scene.device))
        self.views = views[[i for i in range(len(views)) if i not in set(self.held_back)]]
        self.taken_in: int | None = None
        """Steps after which the held-back frames joined the others."""
        self.background = scene.background.clone().requires_grad_()
        self.watch: Watch | None = None
        if self.held_back:
            self.watch = Watch(views[self.held_back])
            self.watch.add(0, self._held_back_score(scene.moving.at), {})
        self._begin(scene)
        self.background_adam = self._background_adam()
        self.beside = None
        if beside is not None and self.held_back:
            views = (beside.views, beside.all_views)
            seen, everything = (scene.frame.to_model(v.to(scene.device)) for v in views)
            self.beside = Beside(seen, everything, beside.score)
        self.step, self.beside_steps, self.seconds = 0, 0, 0.0
        self._start_round()

    def one_step(self) -> float:
        """Sample frames, differentiate, step; every so often redistribute. Returns the PSNR of
        these frames before the step.
        """
        if self._chosen and self.taken_in is None:
            self._take_in()
        views = self._sampled_views()
        rows = self.adam.there(views.time)
        columns = self.adam.values[rows].requires_grad_()
        loss, mse = self._loss(columns, rows, views)
        self.background_adam.zero_grad()
        loss.backward()
        assert columns.grad is not None
        self.blame[rows] += columns.grad[:, :3].norm(dim=1) * self.unit[rows]
        self.adam.step(rows, columns.grad, self._rates(), self.unit)
        self._bound(rows)
        self.background_adam.step()
        self.step += 1
        since = self.step - (self.taken_in or 0)
        if (self.taken_in is None or self._again) and self.config.is_round(since):
            generator = self._generator(1, self.step)
            redistribute(self.adam, self.blame, self.config.density, self.least_time, generator)
            self._start_round()
        measured = self.step % self.config.check_every == 0 or self.step == self.config.steps
        if measured and self.taken_in is None:
            self._check()
        return -10.0 * math.log10(max(mse, 1e-10))

    @property
    def _chosen(self) -> bool:
        """Whether all steps are taken, or held-back frames say that no more are worth it."""
        steps = self.config.steps
        return self.step >= steps or (self.watch is not None and self.watch.hopeless(steps))

    @property
    def done(self) -> bool:
        """Whether no step is left, with the held-back frames or without."""
        if self.taken_in is not None:
            return self.step >= self.taken_in + self._last_steps
        better = self.watch is not None and self.watch.best is not None
        return self._chosen and not (better and self._last_steps > 0)

    @property
    def _again(self) -> bool:
        """Whether the steps with all frames begin anew: at the scene made from all frames."""
        return self.whole is not self.start

    @property
    def _last_steps(self) -> int:
        """Steps with all frames: as many as were best, or some more from the best state."""
        if not self._again:
            return self.config.last_steps
        return 0 if self.watch is None else self.watch.best_step

    def _begin(self, scene: GaussianScene) -> None:
        """Parameters of a scene, no more of them than there may be."""
        free = FreeGaussians.from_gaussians(scene.gaussians)
        self.adam = Adam(free.standing(STATIC_TIME) if scene.frame.static else free)
        if len(self.adam.values) > self.config.density.most:
            self._thin(self.config.density.most)

    def _take_in(self) -> None:
        """Go on with all frames: from the best state, or again from the scene made from all."""
        assert self.watch is not None
        assert self.watch.best is not None
        self.taken_in, self.views, self.scene = self.step, self.all_views, self.whole
        if self._again:
            background = self.whole.background
            self._begin(self.whole)
        else:
            background = self.watch.best["background"]
            self.adam = Adam(FreeGaussians.unpacked(self.watch.best["values"]))
        with torch.no_grad():
            self.background.copy_(background)
        self.background_adam = self._background_adam()
        self._start_round()

    def _background_adam(self) -> torch.optim.Adam:
        return torch.optim.Adam([self.background], lr=self.config.rates.background)

    def result(self) -> GaussianScene:
        """The scene that shows the held-back frames best, which may be the one it started from;
        where none are held back, or they have joined the others, the scene as it is now.
        """
        choosing = None if self.taken_in is not None else self.watch
        state = self._showing() if choosing is None else choosing.best
        if state is None:
            return self._scene(self.whole, self.whole.gaussians, self.whole.background)
        gaussians = FreeGaussians.unpacked(state["values"]).gaussians()
        return self._scene(self.scene, gaussians, state["background"].clamp(0.0, 1.0))

    def _scene(
        self, like: GaussianScene, gaussians: Gaussians4D, background: Tensor
    ) -> GaussianScene:
        return GaussianScene(
            gaussians,
            like.frame,
            self.inputs,
            background=background,
            projection=like.projection,
            backend=like.backend,
            frames_seen=self._frames_seen(),
        )

    def chosen(self) -> Chosen | None:
        """How the held-back frames chose ``result()``; None where there are none."""
        if self.watch is None:
            return None
        return Chosen(tuple(self.held_back), tuple(self.watch.curve), self.watch.best_step)

    def _frames_seen(self) -> Tensor | None:
        """What the scene it started from has seen, and the frames refined on."""
        before, here = self.whole.frames_seen, self.inputs.frame_ids
        return None if before is None or here is None else joined(before, here)

    def state(self) -> dict[str, Any]:
        """Everything needed to continue to the last bit."""
        own = {name: getattr(self, name) for name in STATE}
        own["background"] = self.background.detach()
        return {
            **own,
            "background_adam": self.background_adam.state_dict(),
            "adam": self.adam.state(),
            "watch": None if self.watch is None else self.watch.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state()``."""
        self.adam.load_state(state["adam"])
        self.background_adam.load_state_dict(state["background_adam"])
        with torch.no_grad():
            self.background.copy_(state["background"])
        if self.watch is not None:
            self.watch.load_state(state["watch"])
        for name in STATE:
            setattr(self, name, state[name])
        if self.taken_in is not None:
            self.views, self.scene = self.all_views, self.whole

    def _showing(self) -> dict[str, Tensor]:
        """What pictures depend on."""
        return {"values": self.adam.values, "background": self.background.detach()}

    def _check(self) -> None:
        """Measure the held-back frames."""
        if self.watch is not None:
            score = self._held_back_score(
                lambda time: at_moment(self.adam.values[self.adam.there(time[None])], time)
            )
            self.watch.add(self.step, score, self._showing())

    @torch.no_grad()
    def _held_back_score(self, at: Callable[[Tensor], Gaussians3D]) -> float:
        """PSNR of the held-back frames as the Gaussians ``at`` a time show them."""
        assert self.watch is not None
        views = self.watch.views
        pictures = [self._picture(at(views.time[i]), views[i]) for i in range(len(views))]
        return self.watch.score(torch.cat(pictures))

    def _loss(self, columns: Tensor, rows: Tensor, views: Views) -> tuple[Tensor, float]:
        pictures = []
        for i in range(len(views)):
            # Of several moments each has its own Gaussians.
            mine = (
                slice(None)
                if len(views) == 1
                else torch.isin(rows, self.adam.there(views.time[i : i + 1]))
            )
            pictures.append(self._picture(at_moment(columns[mine], views.time[i]), views[i]))
        rgb = torch.cat(pictures)
        assert views.rgb is not None
        loss = photometric_loss(rgb, views.rgb, views.mask, self.config.ssim)
        if self.config.opacity_weight > 0.0:
            loss = loss + self.config.opacity_weight * torch.sigmoid(columns[:, 15]).mean()
        off = (rgb.detach().clamp(0.0, 1.0) - views.rgb).square().mean(1, keepdim=True)
        return loss, float(off.mean() if views.mask is None else off[views.mask].mean())

    def _picture(self, now: Gaussians3D, view: Views) -> Tensor:
        background, backend, projection = self.background, self.scene.backend, self.scene.projection
        return rasterize(
            now, view, background=background, backend=backend, projection=projection
        ).rgb

    def _sampled_views(self) -> Views:
        """Views of this step: of the frames, or beside them."""
        rules = self.config.beside
        if self.beside is None or self.step % rules.every or not self._beside_helps:
            return self.views[self._sampled_frames()]
        views = self.beside.views if self.taken_in is None else self.beside.all_views
        chosen = self._in_turn(len(views), self.beside_steps, 3)
        self.beside_steps += 1
        return views[chosen]

    @property
    def _beside_helps(self) -> bool:
        """Whether the model that made the views beside showed the held-back frames well enough, at
        this number of steps from the start.
        """
        assert self.beside is not None
        assert self.watch is not None
        most = self.beside.score + self.config.beside.margin
        since = self.step - (self.taken_in or 0) if self._again else self.step
        return all(value < most for step, value in self.watch.curve if step <= since)

    def _sampled_frames(self) -> list[int]:
        """Frames of this step."""
        return self._in_turn(len(self.views), self.step - self.beside_steps, 0)

    def _in_turn(self, v: int, turn: int, stream: int) -> list[int]:
        """Views of a turn among v: every one once, in random order, before any comes again."""
        out = []
        for position in range(turn * self.config.views, (turn + 1) * self.config.views):
            order = torch.randperm(v, generator=self._generator(stream, position // v))
            out.append(int(order[position % v]))
        return out

    def _generator(self, stream: int, number: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.config.seed * 4 + stream) * 1_000_003 + number)

    def _rates(self) -> Tensor:
        rates, done = self.config.rates, self.step / self.config.steps
        if self.taken_in is not None:
            done = (self.step - self.taken_in) / self._last_steps
            share = self._last_steps / self.config.steps
            done = share * done if self._again else LATE + (1.0 - LATE) * done
        columns = rate_columns(
            rates, self.adam.values.shape[1], rates.last**done, rates.last_others**done
        )
        return columns.to(self.scene.device)

    def _bound(self, rows: Tensor) -> None:
        """Hold durations to what the frames can tell."""
        if self.least_time > 0.0:
            free = self.adam.free
            free.log_time_scales[rows] = free.log_time_scales[rows].clamp_min(
                math.log(self.least_time)
            )

    def _thin(self, most: int) -> None:
        """Keep ``most`` Gaussians, sampled by how much of the pictures they make up, and enlarge
        them until they cover what all did.
        """
        shares = self._shares().clamp_min(1e-6)
        # The first of exponential waiting times: samples without replacement, of any number
        # (Efraimidis and Spirakis 2006).
        waiting = (
            -torch.rand(len(shares), generator=self._generator(2, 0)).log().to(shares.device)
            / shares
        )
        kept = waiting.argsort(stable=True)[:most].sort().values
        larger = 0.5 * torch.log(shares.sum() / shares[kept].sum())
        self.adam.replace(kept, self.adam.values[:0])
        self.adam.free.log_scales.add_(larger)

    def _shares(self) -> Tensor:
        """How much of all input frames' pixels is each Gaussian's: its weights, summed over pixels.

        With all colours alike, the gradient of the sum of a picture by a Gaussian's colour is the
        sum of its weights.
        """
        shares = torch.zeros_like(self.adam.age)
        for i in range(len(self.views)):
            rows = self.adam.there(self.views.time[i : i + 1])
            now = at_moment(self.adam.values[rows], self.views.time[i])
            grey = torch.zeros_like(now.sh[:, :1]).requires_grad_()
            picture = self._picture(dataclasses.replace(now, sh=grey), self.views[i])
            (share,) = torch.autograd.grad(picture.sum(), grey)
            shares[rows] += share.sum((1, 2))
        return shares

    def _start_round(self) -> None:
        """Nobody is to blame yet; units of length as things lie now."""
        self.blame = torch.zeros(len(self.adam.values), device=self.scene.device)
        self.unit = (
            torch.cdist(self.adam.free.means, self.views.c2w[:, :3, 3]).amin(1).clamp_min(1e-3)
        )
