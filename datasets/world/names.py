"""What the names of worlds say: seeds, and the cameras that film them."""

from fsm.datasets.base import Clip
from fsm.datasets.world.clip import WorldClip
from fsm.datasets.world.rig import RigLayout, WorldRig
from fsm.errors import InputError

MOST_SEEDS = 10_000
SHOWN = 5


class WorldClips:
    """Procedural worlds as a data set, one clip per seed: ``world:SEED`` or ``world:FIRST-LAST``,
    each also with ``:rig=CAMERASxMOMENTS`` or ``:ring=CAMERASxMOMENTS``.

    Raises ``InputError`` for what is no seed, for a range of more than ``MOST_SEEDS`` and for what
    is no layout of cameras.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        seeds, colon, cameras = name.removeprefix("world:").partition(":")
        self.layout = RigLayout.parse(cameras, name) if colon else None
        first, _, last = seeds.partition("-")
        last = last if "-" in seeds else first
        if not all(n.isascii() and n.isdecimal() and len(n) < 10 for n in (first, last)) or int(
            last
        ) < int(first):
            raise InputError(
                f"{name!r} has seed {seeds!r}; write world: and a whole number of at least 0, "
                "or a range, as in world:1000-1015."
            )
        self.seeds = range(int(first), int(last) + 1)
        if len(self.seeds) > MOST_SEEDS:
            raise InputError(
                f"{name!r} names {len(self.seeds)} seeds; at most {MOST_SEEDS} make one data set."
            )

    @property
    def ids(self) -> tuple[str, ...]:
        """The names of the clips: ``world-SEED``, of rigs ``world-SEED-rig-8x12``."""
        cameras = "" if self.layout is None else f"-{self.layout.id}"
        return tuple(f"world-{seed}{cameras}" for seed in self.seeds)

    def __len__(self) -> int:
        """Number of seeds."""
        return len(self.seeds)

    def clip(self, id: str) -> Clip:
        """The clip of one seed."""
        if id not in self.ids:
            shown = ", ".join(self.ids[:SHOWN]) + ", ..." * (len(self) > SHOWN)
            raise InputError(f"{self.name} has no clip {id!r}; it has {shown}.")
        seed = self.seeds[self.ids.index(id)]
        return WorldClip(seed) if self.layout is None else WorldRig(seed, self.layout)
