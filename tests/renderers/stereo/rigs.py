"""Source views for tests: all views for every reference view."""

import torch

from fsm.renderers.stereo.sources import SourceViews
from fsm.views import Views


def all_sources(reference: Views, views: Views) -> SourceViews:
    """Every one of ``views`` [b n] is a source view of every reference view [b v]."""
    b, v, n = reference.c2w.shape[0], len(reference), len(views)
    return SourceViews.of(reference, views, torch.arange(n).expand(b, v, n))
