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
from fsm.refine.corrections import Corrections
from fsm.refine.densify import redistribute
from fsm.refine.hold_back import Chosen, Watch, held_back
from fsm.refine.loss import photometric_loss
from fsm.refine.parameters import FreeGaussians
from fsm.refine.thin import shares_of_pictures, thin
from fsm.refine.trajectories import Motions, shares_of
from fsm.refine.turns import generator, in_turn
from fsm.renderers.gaussians.rasterize import rasterize
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.gaussians.types import Gaussians3D
from fsm.views import Views

STATE = ("step", "beside_steps", "seconds", "blame", "unit", "taken_in")
LATE = 0.8  # share of the way from first to last rates where held-back frames join
# steps of the corrections of held-back frames, at the start and before every measurement
FIRST_FIT, FIT = 40, 5
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
        if scene.frame.static and scene.gaussians.follow is not None:
            raise InputError(
                "the scene has one moment and Gaussians that follow trajectories; make it again."
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
        self.frames = [i for i in range(len(views)) if i not in set(self.held_back)]
        """Positions in ``inputs`` of the frames that steps look at, ``views``."""
        self.views = views[self.frames]
        self.taken_in: int | None = None
        """Steps after which the held-back frames joined the others."""
        self.background = scene.background.clone().requires_grad_()
        self.background_adam = self._background_adam()
        self.step, self.beside_steps, self.seconds = 0, 0, 0.0
        self._begin(scene)
        self._start_round()
        self.corrections = self._uncorrected(views)
        self.watch: Watch | None = None
        if self.held_back:
            self.watch = Watch(views[self.held_back])
            self._fit_held_back(scene.moving.at, FIRST_FIT)
            self.watch.add(0, self._held_back_pictures(scene.moving.at), {})
        self.beside: Beside | None = None
        if beside is not None and self.held_back:
            parts = (beside.views, beside.all_views)
            seen, everything = (scene.frame.to_model(v.to(scene.device)) for v in parts)
            self.beside = Beside(seen, everything, beside.score)

    def one_step(self) -> float:
        """Sample frames, differentiate, step; every so often redistribute. Returns the PSNR of
        these frames before the step.
        """
        if self._chosen and self.taken_in is None:
            self._take_in()
        views, frames = self._sampled_views()
        rows = self.adam.there(views.time)
        columns = self.adam.values[rows].requires_grad_()
        loss, mse = self._loss(columns, rows, views, frames)
        self.background_adam.zero_grad()
        loss.backward()
        assert columns.grad is not None
        self.blame[rows] += columns.grad[:, :3].norm(dim=1) * self.unit[rows]
        self.adam.step(rows, columns.grad, self._rates(), self.unit)
        self._bound(rows)
        self.background_adam.step()
        self.corrections.step(*self._shares_of_rates())
        self.motions.step(self.config.rates.trajectories * self._shares_of_rates()[0])
        self.step += 1
        since = self.step - (self.taken_in or 0)
        if (self.taken_in is None or self._again) and self.config.is_round(since):
            random = generator(self.config.seed, 1, self.step)
            redistribute(self.adam, self.blame, self.config.density, self.least_time, random)
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
        follow = scene.gaussians.follow
        shares = shares_of(follow, len(free)).to(scene.device)
        self.adam = Adam(free.standing(STATIC_TIME) if scene.frame.static else free, shares)
        self.motions = Motions(follow, float(self._units().median()))
        if len(self.adam.values) > self.config.density.most:
            shares = shares_of_pictures(self.adam, self.views, self._at, self._picture)
            thin(self.adam, shares, self.config.density.most, generator(self.config.seed, 2, 0))

    def _take_in(self) -> None:
        """Go on with all frames: from the best state, or again from the scene made from all."""
        assert self.watch is not None
        assert self.watch.best is not None
        self.taken_in = self.step
        self._use_all_frames()
        if self._again:
            background = self.whole.background
            self._begin(self.whole)
        else:
            background = self.watch.best["background"]
            best = self.watch.best
            self.adam = Adam(FreeGaussians.unpacked(best["values"]), best["shares"])
            self.motions.knots.begin_at(best["knots"])
        with torch.no_grad():
            self.background.copy_(background)
        self.background_adam = self._background_adam()
        self._start_round()
        if self._again:
            self.corrections = self._uncorrected(self.all_views)
        else:
            self.corrections.begin_at(self.watch.best, self.frames)

    def _use_all_frames(self) -> None:
        self.views, self.scene = self.all_views, self.whole
        self.frames = list(range(len(self.all_views)))

    def _uncorrected(self, views: Views) -> Corrections:
        """Corrections of ``views``, all inputs, before any step."""
        return Corrections(self.config, views, self.frames, float(self.unit.median()))

    def _background_adam(self) -> torch.optim.Adam:
        return torch.optim.Adam([self.background], lr=self.config.rates.background)

    def result(self) -> GaussianScene:
        """The scene that shows the held-back frames best, which may be the one it started from;
        where none are held back, or they have joined the others, the scene as it is now.
        """
        state = self._kept()
        before, here = self.whole.frames_seen, self.inputs.frame_ids
        seen = None if before is None or here is None else joined(before, here)
        if state is None:
            return self.whole.replaced(self.whole.gaussians, self.inputs, seen)
        gaussians = FreeGaussians.unpacked(state["values"]).gaussians()
        follow = self.motions.follow(state["shares"], state["knots"])
        gaussians = dataclasses.replace(gaussians, follow=follow)
        inputs = self.corrections.corrected(self.inputs, self.scene.frame, state)
        return self.scene.replaced(gaussians, inputs, seen, state["background"].clamp(0.0, 1.0))

    def _kept(self) -> dict[str, Tensor] | None:
        """What the result shows; None: the start."""
        choosing = None if self.taken_in is not None else self.watch
        return self._showing() if choosing is None else choosing.best

    def corrections_found(self) -> dict[str, list[Any]]:
        """Corrections of all input frames; see ``Corrections.described``. Empty for the start."""
        state = self._kept()
        return {} if state is None else self.corrections.described(self.scene.frame, state)

    def chosen(self) -> Chosen | None:
        """How the held-back frames chose ``result()``; None where there are none."""
        if self.watch is None:
            return None
        return Chosen(tuple(self.held_back), tuple(self.watch.curve), self.watch.best_step)

    def state(self) -> dict[str, Any]:
        """Everything needed to continue to the last bit."""
        own = {name: getattr(self, name) for name in STATE}
        own["background"] = self.background.detach()
        return {
            **own,
            "background_adam": self.background_adam.state_dict(),
            "adam": self.adam.state(),
            "corrections": self.corrections.state(),
            "motions": self.motions.state(),
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
            self._use_all_frames()
            self.corrections = self._uncorrected(self.all_views)
        self.corrections.load_state(state["corrections"])
        self.motions.load_state(state["motions"])

    def _showing(self) -> dict[str, Tensor]:
        """What pictures depend on."""
        shown = {"values": self.adam.values, "background": self.background.detach()}
        shown |= {"shares": self.adam.shares, "knots": self.motions.knots.values.detach()}
        return shown | self.corrections.showing()

    def _check(self) -> None:
        """Measure the held-back frames."""
        if self.watch is not None:

            def at(time: Tensor) -> Gaussians3D:
                with torch.no_grad():
                    return self._at(self.adam.there(time[None]), time)

            self._fit_held_back(at, FIT)
            self.watch.add(self.step, self._held_back_pictures(at), self._showing())

    def _fit_held_back(self, at: Callable[[Tensor], Gaussians3D], steps: int) -> None:
        """Fit exposures and cameras of held-back frames to the Gaussians, which stay as they are:
        what NeRF in the Wild (arXiv 2008.02268) and BARF (arXiv 2104.06405) do before they judge.
        """
        assert self.watch is not None
        for i, frame in enumerate(self._watched):
            if not self.corrections.unknown(frame):
                continue
            view, now = self.watch.views[i], at(self.watch.views.time[i])
            for _ in range(steps):
                assert view.rgb is not None
                rgb = self._corrected(now, view, frame)
                photometric_loss(rgb, view.rgb, view.mask, self.config.ssim).backward()
                self.corrections.step(*self._shares_of_rates(), held_back=True)

    @property
    def _watched(self) -> list[int]:
        """Positions in ``inputs`` of the frames that are measured."""
        assert self.watch is not None
        return [self.held_back[i] for i in self.watch.some]

    @torch.no_grad()
    def _held_back_pictures(self, at: Callable[[Tensor], Gaussians3D]) -> Tensor:
        """The held-back frames as the Gaussians ``at`` a time show them."""
        assert self.watch is not None
        views = self.watch.views
        pictures = [
            self._corrected(at(views.time[i]), views[i], frame)
            for i, frame in enumerate(self._watched)
        ]
        return torch.cat(pictures)

    def _loss(
        self, columns: Tensor, rows: Tensor, views: Views, frames: list[int | None]
    ) -> tuple[Tensor, float]:
        pictures = []
        for i in range(len(views)):
            # Of several moments each has its own Gaussians.
            mine = (
                slice(None)
                if len(views) == 1
                else torch.isin(rows, self.adam.there(views.time[i : i + 1]))
            )
            now = self._moment(columns[mine], rows[mine], views.time[i])
            pictures.append(self._corrected(now, views[i], frames[i]))
        rgb = torch.cat(pictures)
        assert views.rgb is not None
        loss = photometric_loss(rgb, views.rgb, views.mask, self.config.ssim)
        loss = loss + self.config.roughness * self.motions.roughness()
        if self.config.opacity_weight > 0.0:
            loss = loss + self.config.opacity_weight * torch.sigmoid(columns[:, 15]).mean()
        off = (rgb.detach().clamp(0.0, 1.0) - views.rgb).square().mean(1, keepdim=True)
        return loss, float(off.mean() if views.mask is None else off[views.mask].mean())

    def _at(self, rows: Tensor, time: Tensor) -> Gaussians3D:
        """The Gaussians of these rows at ``time``."""
        return self._moment(self.adam.values[rows], rows, time)

    def _moment(self, columns: Tensor, rows: Tensor, time: Tensor) -> Gaussians3D:
        shares = self.adam.shares[rows]
        return self.motions.carried(at_moment(columns, time), columns, shares, time)

    def _corrected(self, now: Gaussians3D, view: Views, frame: int | None) -> Tensor:
        """The picture as ``frame`` of the inputs has it; of no frame: as the scene has it."""
        if frame is None:
            return self._picture(now, view)
        rgb = self._picture(self.corrections.moved(now, frame), view)
        return self.corrections.exposed(rgb, frame, view.rgb)

    def _picture(self, now: Gaussians3D, view: Views) -> Tensor:
        background, backend, projection = self.background, self.scene.backend, self.scene.projection
        return rasterize(
            now, view, background=background, backend=backend, projection=projection
        ).rgb

    def _sampled_views(self) -> tuple[Views, list[int | None]]:
        """Views of this step, of the frames or beside them, and which inputs they are, None where
        they are not.
        """
        rules, count, seed = self.config.beside, self.config.views, self.config.seed
        since = self.step - (self.taken_in or 0) if self._again else self.step
        if (
            self.beside is None
            or self.watch is None
            or self.step % rules.every
            or not self.beside.helps(self.watch.curve, since, rules.margin)
        ):
            chosen = in_turn(len(self.views), self.step - self.beside_steps, count, seed, 0)
            return self.views[chosen], [self.frames[i] for i in chosen]
        views = self.beside.views if self.taken_in is None else self.beside.all_views
        chosen = in_turn(len(views), self.beside_steps, count, seed, 3)
        self.beside_steps += 1
        return views[chosen], [None] * len(chosen)

    def _rates(self) -> Tensor:
        columns = rate_columns(
            self.config.rates, self.adam.values.shape[1], *self._shares_of_rates()
        )
        return columns.to(self.scene.device)

    def _shares_of_rates(self) -> tuple[float, float]:
        """What is left of the rates of centres, velocities, times and cameras, and of the rest."""
        rates, done = self.config.rates, self.step / self.config.steps
        if self.taken_in is not None:
            done = (self.step - self.taken_in) / self._last_steps
            share = self._last_steps / self.config.steps
            done = share * done if self._again else LATE + (1.0 - LATE) * done
        return rates.last**done, rates.last_others**done

    def _bound(self, rows: Tensor) -> None:
        """Hold durations to what the frames can tell."""
        if self.least_time > 0.0:
            free = self.adam.free
            free.log_time_scales[rows] = free.log_time_scales[rows].clamp_min(
                math.log(self.least_time)
            )

    def _start_round(self) -> None:
        """Nobody is to blame yet; units of length as things lie now."""
        self.blame = torch.zeros(len(self.adam.values), device=self.scene.device)
        self.unit = self._units()

    def _units(self) -> Tensor:
        """Of each Gaussian the distance to the nearest camera."""
        centres = self.views.c2w[:, :3, 3]
        return torch.cdist(self.adam.free.means, centres).amin(1).clamp_min(1e-3)
