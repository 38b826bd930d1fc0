"""Decoder heads: tokens of the encoder to pixels or to Gaussians."""
