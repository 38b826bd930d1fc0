"""Numbers that the public functions, their plain forms and their compiled forms share."""

# Temporal scales are held between these: "always" (infinity) and 0 then have finite arithmetic.
LONGEST = 1e6
SHORTEST = 1e-9
# least variance over time
LEAST_VARIANCE = 1e-30
# squared length below which a quaternion counts as zero
LEAST_NORM = 1e-24
# Gaussians whose temporal weight is below are not there (FSM, released setting).
MIN_WEIGHT = 0.05

# alpha below is nothing
LEAST_ALPHA = 1.0 / 255.0
MOST_ALPHA = 0.999
# A pixel is finished before its transmittance falls to this.
LAST_TRANSMITTANCE = 1e-4
# The Jacobian is taken at most this share of the half field of view outside the picture.
GUARD = 0.3
# Squared standard deviations added to every splat's box: room for the rounding of rasterisers.
SLACK = 2e-3
