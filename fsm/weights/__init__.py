"""Bundled checkpoints, one folder each."""
