// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * What a VMM should not do: each ioctl of KVM for TDX with wrong arguments, or at the wrong time, and
 * the error that it gives.  Any other answer is a line.
 */
#include "vmm.h"

enum { SHARED_BIT = 47, RTM_HLE = 1 << 11 | 1 << 4, NO_SUCH_COMMAND = 99 };

static struct kvm_tdx_vm wrong;
static struct kvm_tdx_capabilities wanted;
static struct kvm_cpuids leaves;

static void expect(struct td *td, const char *what, long error, long result)
{
	if (result == -error)
		return;
	SAY("dpamt: td % tour wanted % got % in:", td->number, error, -result);
	say_line(what, 0);
}

#define EXPECT(error, what, call) expect(td, "dpamt: at " what, error, call)

static long command(int file, u32 id, u32 flags, void *data, u64 hw_error)
{
	struct kvm_tdx_command one = {
		.id = id, .flags = flags, .data = (u64)data, .hw_error = hw_error,
	};

	return SYS(SYS_ioctl, file, KVM_ENCRYPT_OP, &one);
}

static long init_vm(struct td *td, u32 count, u32 function, u32 eax, u32 ebx)
{
	wrong.cpuid.count = count;
	wrong.cpuid.entries[0].function = function;
	wrong.cpuid.entries[0].eax = eax;
	wrong.cpuid.entries[0].ebx = ebx;
	return command(td->vm, TDX_INIT_VM, 0, &wrong, 0);
}

/* A VM of which nothing is known yet. */
void tour_new_vm(struct td *td, u64 xfam)
{
	enum { EIO = 5, E2BIG = 7, EFAULT_ = 14, EINVAL = 22 };

	EXPECT(EINVAL, "a hw_error of the VMM's", command(td->vm, TDX_INIT_VM, 0, 0, 1));
	EXPECT(EINVAL, "an unknown command", command(td->vm, NO_SUCH_COMMAND, 0, 0, 0));
	EXPECT(EINVAL, "TDX_CAPABILITIES with flags", command(td->vm, TDX_CAPABILITIES, 1, &wanted, 0));
	wanted.cpuid.count = 0;
	EXPECT(E2BIG, "TDX_CAPABILITIES without room", command(td->vm, TDX_CAPABILITIES, 0, &wanted, 0));
	EXPECT(EFAULT_, "TDX_CAPABILITIES nowhere", command(td->vm, TDX_CAPABILITIES, 0, (void *)1, 0));
	EXPECT(EINVAL, "TDX_FINALIZE_VM of nothing", command(td->vm, TDX_FINALIZE_VM, 0, 0, 0));
	EXPECT(EIO, "a vCPU before TDX_INIT_VM", SYS(SYS_ioctl, td->vm, KVM_CREATE_VCPU, 0));
	EXPECT(EINVAL, "TDX_INIT_VM with flags", command(td->vm, TDX_INIT_VM, 1, &wrong, 0));
	EXPECT(EFAULT_, "TDX_INIT_VM from nowhere", command(td->vm, TDX_INIT_VM, 0, (void *)1, 0));
	EXPECT(E2BIG, "TDX_INIT_VM with 300 leaves", init_vm(td, 300, 0, 0, 0));
	EXPECT(EINVAL, "TDX_INIT_VM without a width", init_vm(td, 0, 0, 0, 0));
	EXPECT(EINVAL, "TDX_INIT_VM with 40 bits", init_vm(td, 1, 0x80000008, 40 << 16, 0));
	wrong.reserved[0] = 1;
	EXPECT(EINVAL, "TDX_INIT_VM, reserved", init_vm(td, 1, 0x80000008, 48 << 16, 0));
	wrong.reserved[0] = 0;
	wrong.cpuid.padding = 1;
	EXPECT(EINVAL, "TDX_INIT_VM, padding", init_vm(td, 1, 0x80000008, 48 << 16, 0));
	wrong.cpuid.padding = 0;
	wrong.attributes = 1UL << 63;
	EXPECT(EINVAL, "TDX_INIT_VM, attributes", init_vm(td, 1, 0x80000008, 48 << 16, 0));
	wrong.attributes = 0;
	wrong.xfam = ~xfam;
	EXPECT(EINVAL, "TDX_INIT_VM, XFAM", init_vm(td, 1, 0x80000008, 48 << 16, 0));
	wrong.xfam = xfam;
	wrong.cpuid.entries[1].function = 0x77;
	EXPECT(EINVAL, "TDX_INIT_VM, a leaf of nobody's", init_vm(td, 2, 0x80000008, 48 << 16, 0));
	wrong.cpuid.entries[1].function = 7;
	wrong.cpuid.entries[1].ebx = RTM_HLE;
	EXPECT(EINVAL, "TDX_INIT_VM with TSX", init_vm(td, 2, 0x80000008, 48 << 16, 0));
}

/* A TD that is initialised, and a vCPU that is not. */
void tour_new_vcpu(struct td *td, struct vcpu *vcpu)
{
	enum { EINVAL = 22 };
	struct kvm_tdx_region region = { (u64)td, 0, 1 };

	EXPECT(EINVAL, "TDX_INIT_VM twice", init_vm(td, 1, 0x80000008, 48 << 16, 0));
	EXPECT(EINVAL, "memory before TDX_INIT_VCPU",
	       command(vcpu->file, TDX_INIT_MEM_REGION, 0, &region, 0));
	EXPECT(EINVAL, "TDX_INIT_VCPU with flags", command(vcpu->file, TDX_INIT_VCPU, 1, 0, 0));
	EXPECT(EINVAL, "TDX_INIT_VCPU without x2APIC", command(vcpu->file, TDX_INIT_VCPU, 0, 0, 0));
	EXPECT(EINVAL, "KVM_RUN too early", SYS(SYS_ioctl, vcpu->file, KVM_RUN));
}

/* A TD with a vCPU, before it is measured. */
void tour_not_final(struct td *td, struct vcpu *vcpu)
{
	enum { E2BIG = 7, EINVAL = 22, EFAULT_ = 14, ENOTTY = 25 };
	struct kvm_tdx_region region = { (u64)td->shared, 0, 1 };

	EXPECT(EINVAL, "TDX_INIT_VCPU twice", command(vcpu->file, TDX_INIT_VCPU, 0, 0, 0));
	EXPECT(EINVAL, "an unknown command of a vCPU", command(vcpu->file, NO_SUCH_COMMAND, 0, 0, 0));
	leaves.count = 256;
	EXPECT(0, "TDX_GET_CPUID", command(vcpu->file, TDX_GET_CPUID, 0, &leaves, 0));
	if (leaves.count < 2)
		SAY("dpamt: td % tour wanted 2 got % in: CPUID", td->number, leaves.count);
	leaves.count = 1;
	EXPECT(E2BIG, "TDX_GET_CPUID without room", command(vcpu->file, TDX_GET_CPUID, 0, &leaves, 0));
	EXPECT(EINVAL, "memory with flags", command(vcpu->file, TDX_INIT_MEM_REGION, 2, &region, 0));
	EXPECT(EFAULT_, "memory of nowhere",
	       command(vcpu->file, TDX_INIT_MEM_REGION, 0, (void *)1, 0));
	region.source = 1;
	EXPECT(EINVAL, "memory from no page", command(vcpu->file, TDX_INIT_MEM_REGION, 0, &region, 0));
	region = (struct kvm_tdx_region){ (u64)td->shared, 1UL << SHARED_BIT, 1 };
	EXPECT(EINVAL, "shared memory", command(vcpu->file, TDX_INIT_MEM_REGION, 0, &region, 0));
}

/* A TD that may run. */
void tour_final(struct td *td, struct vcpu *vcpu)
{
	enum { EINVAL = 22 };
	struct kvm_tdx_region region = { (u64)td->shared, 0, 1 };

	EXPECT(EINVAL, "TDX_FINALIZE_VM twice", command(td->vm, TDX_FINALIZE_VM, 0, 0, 0));
	EXPECT(EINVAL, "memory too late", command(vcpu->file, TDX_INIT_MEM_REGION, 0, &region, 0));
	EXPECT(EINVAL, "TDX_GET_CPUID too late", command(vcpu->file, TDX_GET_CPUID, 0, &leaves, 0));
}
