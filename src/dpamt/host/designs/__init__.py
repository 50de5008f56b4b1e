"""The competing answers to when a page pair is added and removed, one file each."""
