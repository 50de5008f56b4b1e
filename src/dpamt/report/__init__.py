"""What people look at: texts made of facts, nothing computed here but sums and roundings."""
