"""Motion of what moves: tracks of points, and the few rigid motions that they share."""
