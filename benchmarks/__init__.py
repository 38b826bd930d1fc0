"""Timed comparisons: ``python -m benchmarks.NAME``; see README.md."""
