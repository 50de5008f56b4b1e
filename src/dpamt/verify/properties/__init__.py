"""What a run must keep: the named properties, and those of a user's file."""
