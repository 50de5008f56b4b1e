"""A real Linux kernel in plain QEMU, its SEAMCALLs answered by the module of dpamt."""
