"""arch/x86/kvm: the life of TDs and VCPUs, faults, splits, zaps.  Knows PAMT only through core."""
