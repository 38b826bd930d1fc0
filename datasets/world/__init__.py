"""A procedural moving world, rendered fast enough to train on: scenes as values, a plain tracer and
its compiled twin.
"""
