"""Scenarios, and the running of them: worlds side by side, phase by phase, to the final audit."""
