"""`dpamt boot --kvm`: KVM's own TDX code under plain QEMU: its modules, a VMM, guests, a report."""
