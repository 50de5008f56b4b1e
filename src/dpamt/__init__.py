"""Intel TDX Dynamic PAMT without the hardware: run it, prove it, size it."""
