"""The machine: its memory map and CMRs, the contents of its memory, and its page allocator."""
