"""Training: one script for CPU, one GPU and torchrun."""
