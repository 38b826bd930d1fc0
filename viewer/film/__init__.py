"""The film tab: keyframes of view and moment, their curve, and its files."""
