"""A search over several processes or machines: coordinator, workers, how they are joined."""
