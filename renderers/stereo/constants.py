"""Sizes of arrays and guards of divisions that plain, compiled and learnt parts of stereo share.

What shapes a picture is no constant but a field of ``fsm.renderers.stereo.config``.
"""

# Channels of the maps that a cost volume compares; how many of them compiled code can hold.
COLOURS, FEATURES, MOST_CHANNELS = 3, 12, 16
# Costs of a depth plane: of colours and of features, over the better half of the source views and
# over all of them.
COSTS = 4
# A point is in front of a source view if its z-depth there is more than this share of its z-depth
# in the reference view.
NEAR_LIMIT = 1e-3
# Variance of time gaps below which source views of one moment say nothing about motion.
LEAST_VARIANCE = 1e-6
# Weight of a sample outside its frame in the estimate of motion, so that weights never vanish.
LEAST_WEIGHT = 1e-6
# Pixels of a reference view that compiled code takes together, and therefore needs.
LEAST_PIXELS = 16
