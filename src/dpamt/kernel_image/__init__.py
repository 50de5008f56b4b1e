"""Kernel images as files: sections, symbols, lines and instructions of a vmlinux, .ko or object."""
