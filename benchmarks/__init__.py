"""What the model costs, as ratios measured in one run: ``python -m benchmarks.<name>``."""
