"""The inner loop of a search in compiled code: its source, its tables, its driver."""
