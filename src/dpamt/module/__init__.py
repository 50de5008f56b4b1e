"""Intel's side of the SEAMCALL wall: given memory and registers, it answers; it knows no Linux."""
