"""Text that two collections share, told by n-grams: benchmarks and training data."""
