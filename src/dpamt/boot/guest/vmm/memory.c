// SPDX-License-Identifier: GPL-2.0 OR MIT
/* A TD's memory: its slot, what is private, and the pages of guest_memfd. */
#include "vmm.h"

long make_slot(struct td *td, u64 gpa)
{
	struct kvm_region region = {
		.slot = 0, .flags = KVM_REGION_HAS_FILE, .gpa = gpa, .bytes = td->pages * PAGE,
		.address = (u64)td->shared, .file = td->memory,
	};

	long result = KVM(SYS_ioctl, td->vm, KVM_SET_REGION2, &region);

	if (!result)
		td->gpa = gpa;
	return result;
}

/* A slot without guest_memfd, for shared memory alone: made, moved, and deleted when it has no pages. */
long plain_slot(struct td *td, u64 gpa, u64 pages)
{
	struct kvm_region region = {
		.slot = 1, .gpa = gpa, .bytes = pages * PAGE, .address = (u64)td->shared,
	};

	return KVM(SYS_ioctl, td->vm, KVM_SET_REGION2, &region);
}

long delete_slot(struct td *td)
{
	struct kvm_region region = { .slot = 0, .gpa = td->gpa };

	return KVM(SYS_ioctl, td->vm, KVM_SET_REGION2, &region);
}

long punch(struct td *td, u64 gpa, u64 bytes)
{
	return KVM(SYS_fallocate, td->memory, FALLOCATE_PUNCH, gpa - td->gpa, bytes);
}

/* A kernel without CONFIG_ADVISE_SYSCALLS gets a new mapping in place of the old one. */
long drop_pages(void *at, u64 bytes)
{
	long result = SYS(SYS_madvise, at, bytes, MADV_DONTNEED);

	if (result != -ENOSYS)
		return result;
	result = SYS(SYS_mmap, at, bytes, PROT_RW,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1);
	return result < 0 && result > -4096 ? result : 0;
}

/*
 * Free pages, one in each of N 2M regions: pages that are given out next are each the first of
 * their region.  The rest of the regions stays taken, by a file of guest_memfd until the reboot.
 * Free pages are kept by CPU, so everything goes on on this one.
 */
void scatter(u64 regions)
{
	u64 first_cpu = 1;
	struct kvm_create_file file = { .bytes = regions << 21 };
	long kvm = SYS(SYS_open, "/dev/kvm", O_RDWR | O_CLOEXEC, 0);
	long vm = SYS(SYS_ioctl, kvm, KVM_CREATE_VM, KVM_VM_TDX);
	long held = vm < 0 ? vm : SYS(SYS_ioctl, vm, KVM_CREATE_FILE, &file);
	long result = held < 0 ? held : SYS(SYS_sched_setaffinity, 0, 8, &first_cpu);

	if (!result)
		result = SYS(SYS_fallocate, held, FALLOCATE_KEEP, 0, file.bytes);

	for (u64 i = 0; i < regions && !result; i++)
		result = SYS(SYS_fallocate, held, FALLOCATE_PUNCH, i << 21, PAGE);
	if (result)
		SAY("dpamt: scatter error %", -result);
}

/* As QEMU does it: the attribute first, then the pages of what it is no more go back. */
long set_private(struct td *td, u64 gpa, u64 bytes, int private)
{
	struct kvm_attributes attributes = {
		.gpa = gpa, .bytes = bytes, .attributes = private ? KVM_ATTRIBUTE_PRIVATE : 0,
	};
	long result = KVM(SYS_ioctl, td->vm, KVM_SET_ATTRIBUTES, &attributes);

	if (result)
		return result;
	if (private)
		return drop_pages(td->shared + (gpa - td->gpa), bytes);
	return punch(td, gpa, bytes);
}
