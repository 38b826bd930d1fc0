"""Depth and motion from frames: multi-view stereo shared by the decoder heads."""
