"""4D Gaussians and their rasterisers."""
