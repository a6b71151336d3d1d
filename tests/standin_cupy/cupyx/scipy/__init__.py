"""See `cupy` beside this package."""
