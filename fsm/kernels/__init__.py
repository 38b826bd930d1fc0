"""Compiled CPU code: the compiler, its cache, and vectors of sixteen lanes."""
