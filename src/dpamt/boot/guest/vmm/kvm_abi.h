/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The part of KVM's ABI that the VMM uses: request numbers, and where the fields lie.
 *
 * Facts of Linux Documentation/virt/kvm/api.rst and Documentation/virt/kvm/x86/intel-tdx.rst (7.3),
 * written down here because a machine's own headers may be older than TDX.
 */

#define KVM_REQUEST(direction, number, size) \
	((u64)(direction) << 30 | (u64)(size) << 16 | 0xae << 8 | (number))

struct kvm_cap { u32 cap, flags; u64 args[4]; u8 padding[64]; };
struct kvm_region {
	u32 slot, flags;
	u64 gpa, bytes, address, file_offset;
	u32 file, padding1;
	u64 padding2[14];
};
struct kvm_attributes { u64 gpa, bytes, attributes, flags; };
struct kvm_create_file { u64 bytes, flags, padding[6]; };
struct kvm_prefault { u64 gpa, bytes, flags, padding[5]; };
struct kvm_message { u32 address_low, address_high, data, flags; u8 padding[16]; };
struct kvm_tdx_command { u32 id, flags; u64 data, hw_error; };
struct kvm_cpuid_entry { u32 function, index, flags, eax, ebx, ecx, edx, padding[3]; };
struct kvm_cpuids { u32 count, padding; struct kvm_cpuid_entry entries[256]; };
struct kvm_tdx_vm {
	u64 attributes, xfam, config_id[6], owner[6], owner_config[6], reserved[12];
	struct kvm_cpuids cpuid;
};
struct kvm_tdx_capabilities {
	u64 attributes, xfam, reserved[254];
	struct kvm_cpuids cpuid;
};
struct kvm_tdx_region { u64 source, gpa, pages; };

#define KVM_CREATE_VM		KVM_REQUEST(0, 0x01, 0)
#define KVM_CHECK_EXTENSION	KVM_REQUEST(0, 0x03, 0)
#define KVM_VCPU_MMAP_SIZE	KVM_REQUEST(0, 0x04, 0)
#define KVM_CREATE_VCPU		KVM_REQUEST(0, 0x41, 0)
#define KVM_SET_REGION2		KVM_REQUEST(1, 0x49, sizeof(struct kvm_region))
#define KVM_RUN			KVM_REQUEST(0, 0x80, 0)
#define KVM_SET_CPUID2		KVM_REQUEST(1, 0x90, 8)
#define KVM_NMI			KVM_REQUEST(0, 0x9a, 0)
#define KVM_ENABLE_CAP		KVM_REQUEST(1, 0xa3, sizeof(struct kvm_cap))
#define KVM_SIGNAL_MSI		KVM_REQUEST(1, 0xa5, sizeof(struct kvm_message))
#define KVM_ENCRYPT_OP		KVM_REQUEST(3, 0xba, 8)
#define KVM_SET_ATTRIBUTES	KVM_REQUEST(1, 0xd2, sizeof(struct kvm_attributes))
#define KVM_CREATE_FILE		KVM_REQUEST(3, 0xd4, sizeof(struct kvm_create_file))
#define KVM_PREFAULT		KVM_REQUEST(3, 0xd5, sizeof(struct kvm_prefault))

enum {
	KVM_VM_TDX = 5, KVM_CAP_SPLIT_IRQCHIP = 121, KVM_CAP_EXIT_HYPERCALL = 201,
	KVM_HC_MAP_GPA_RANGE = 12, KVM_REGION_HAS_FILE = 4, KVM_ATTRIBUTE_PRIVATE = 8,
	KVM_FAULT_PRIVATE = 8, KVM_MAP_ENCRYPTED = 16,
};

enum {
	TDX_CAPABILITIES, TDX_INIT_VM, TDX_INIT_VCPU, TDX_INIT_MEM_REGION, TDX_FINALIZE_VM,
	TDX_GET_CPUID, TDX_MEASURE = 1,
};

/* Exits. */
enum {
	EXIT_IO = 2, EXIT_HYPERCALL = 3, EXIT_MMIO = 6, EXIT_SHUTDOWN = 8, EXIT_FAIL_ENTRY = 9,
	EXIT_INTERNAL_ERROR = 17, EXIT_SYSTEM_EVENT = 24, EXIT_MEMORY_FAULT = 39, EXIT_TDX = 40,
	EXIT_KINDS = 48,
};

/* The run page that a vCPU shares with its VMM. */
struct kvm_run_page {
	u8 interrupt_window, immediate_exit, padding[6];
	u32 exit_reason;
	u8 ready, interrupt_flag;
	u16 flags;
	u64 cr8, apic_base;
	union {
		struct { u64 gpa; u8 data[8]; u32 bytes; u8 is_write; } mmio;
		struct { u8 direction, size; u16 port; u32 count; u64 data_offset; } io;
		struct { u64 number, args[6], result, flags; } hypercall;
		struct { u32 type, count; u64 data[16]; } event;
		struct { u64 flags, gpa, bytes; } fault;
		struct { u32 suberror, count; u64 data[16]; } internal;
		struct { u64 flags, number, result, args[5]; } tdx;
	};
};
