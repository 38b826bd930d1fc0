"""Fixtures of the training tests."""

import sys

import pytest


@pytest.fixture(autouse=True)
def _without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing it takes longer than all of these runs; one test has it."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
