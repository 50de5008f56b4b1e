"""Judging a recording: what the module cannot have answered, and what a correct host never does."""
