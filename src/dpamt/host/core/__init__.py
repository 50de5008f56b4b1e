"""arch/x86/virt/vmx/tdx: module initialisation, PAMT, page pairs, their accounting."""
