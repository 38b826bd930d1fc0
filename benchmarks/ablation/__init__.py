"""The paper's ablation at any scale: variants of the memory that differ in chunks and elastic prior
alone, trained alike.
"""
