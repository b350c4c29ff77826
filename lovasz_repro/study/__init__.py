"""A whole experiment: one cell, tuning, the grid, and where jobs run."""
