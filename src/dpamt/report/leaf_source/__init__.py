"""What a SEAMCALL leaf does, read from the source of its handler, for the pages about it."""
