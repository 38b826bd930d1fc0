"""Camera paths, and sequences of pictures written to files."""
