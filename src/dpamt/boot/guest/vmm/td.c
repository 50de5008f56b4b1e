// SPDX-License-Identifier: GPL-2.0 OR MIT
/* The process of one TD: made, measured, run, and gone when its files are closed. */
#include "vmm.h"

enum { GUEST_PHYSICAL_BITS = 48, X2APIC = 1 << 21 };

static struct kvm_tdx_capabilities capabilities;
static struct kvm_tdx_vm parameters;
static struct kvm_cpuids cpuids;

static long tdx(int file, u32 id, u32 flags, void *data, u64 *hw_error)
{
	struct kvm_tdx_command command = { .id = id, .flags = flags, .data = (u64)data };
	long result = KVM(SYS_ioctl, file, KVM_ENCRYPT_OP, &command);

	*hw_error = command.hw_error;
	return result;
}

static long enable(struct td *td, u32 cap, u64 value)
{
	struct kvm_cap wanted = { .cap = cap, .args = { value } };

	return KVM(SYS_ioctl, td->vm, KVM_ENABLE_CAP, &wanted);
}

/* KVM refuses every ioctl of a VM that it has given up (KVM_BUG_ON), with -EIO. */
static void tell_bugged(struct td *td)
{
	enum { EIO = 5 };

	if (td->vm > 0 && SYS(SYS_ioctl, td->vm, KVM_CHECK_EXTENSION, 0) == -EIO)
		SAY("dpamt: td % bugged", td->number);
}

static int failed(struct td *td, const char *what, long result, u64 hw_error)
{
	SAY("dpamt: td % failed ", td->number);
	say_line(what, 0);
	SAY("dpamt: td % error % hw &", td->number, -result, hw_error);
	tell_bugged(td);
	td->result = result;
	return -1;
}

/* Each step by its name; the first that fails is told. */
#define STEP(what, call) \
	do { \
		long result_; \
		tell_step(td, what); \
		result_ = (call); \
		tell_step(td, 0); \
		if (result_ < 0) \
			return failed(td, "dpamt: at " what, result_, hw_error); \
	} while (0)

static int make_vm(struct td *td)
{
	u64 hw_error = 0;

	STEP("open", td->kvm = SYS(SYS_open, "/dev/kvm", O_RDWR | O_CLOEXEC, 0));
	STEP("KVM_CREATE_VM", td->vm = KVM(SYS_ioctl, td->kvm, KVM_CREATE_VM, KVM_VM_TDX));
	STEP("SPLIT_IRQCHIP", enable(td, KVM_CAP_SPLIT_IRQCHIP, 24));
	STEP("EXIT_HYPERCALL", enable(td, KVM_CAP_EXIT_HYPERCALL, 1 << KVM_HC_MAP_GPA_RANGE));
	capabilities.cpuid.count = 256;
	STEP("TDX_CAPABILITIES", tdx(td->vm, TDX_CAPABILITIES, 0, &capabilities, &hw_error));
	parameters.xfam = capabilities.xfam & 7;
	if (td->tour)
		tour_new_vm(td, parameters.xfam);
	parameters.cpuid.count = 1;
	parameters.cpuid.entries[0].function = 0x80000008;
	parameters.cpuid.entries[0].eax = GUEST_PHYSICAL_BITS << 16;
	STEP("TDX_INIT_VM", tdx(td->vm, TDX_INIT_VM, 0, &parameters, &hw_error));
	return 0;
}

static int make_vcpu(struct td *td, u32 index)
{
	struct vcpu *vcpu = &td->vcpu[index];
	u64 hw_error = 0;
	long at;

	STEP("KVM_CREATE_VCPU", vcpu->file = KVM(SYS_ioctl, td->vm, KVM_CREATE_VCPU, index));
	if (td->tour && !index)
		tour_new_vcpu(td, vcpu);
	cpuids.count = 3;
	cpuids.entries[0].function = 1;
	cpuids.entries[0].ecx = X2APIC;
	/* The width of addresses is looked for in the last leaf only if the one before says it is there. */
	cpuids.entries[1].function = 0x80000000;
	cpuids.entries[1].eax = 0x80000008;
	cpuids.entries[2].function = 0x80000008;
	cpuids.entries[2].eax = GUEST_PHYSICAL_BITS << 16 | GUEST_PHYSICAL_BITS;
	STEP("KVM_SET_CPUID2", KVM(SYS_ioctl, vcpu->file, KVM_SET_CPUID2, &cpuids));
	STEP("TDX_INIT_VCPU", tdx(vcpu->file, TDX_INIT_VCPU, 0, 0, &hw_error));
	at = KVM(SYS_mmap, 0, 3 * PAGE, PROT_RW, MAP_SHARED, vcpu->file, 0);
	STEP("mmap of the run page", at < 0 && at > -4096 ? at : 0);
	vcpu->page = (void *)at;
	return 0;
}

static int make_memory(struct td *td)
{
	struct kvm_create_file file = { .bytes = td->pages * PAGE };
	struct kvm_attributes private = {
		.bytes = td->pages * PAGE, .attributes = KVM_ATTRIBUTE_PRIVATE,
	};
	struct kvm_tdx_region image = { .pages = td->image };
	u64 hw_error = 0;

	td->shared = map_pages(td->pages * PAGE, MAP_PRIVATE | MAP_NORESERVE);
	STEP("mmap of memory", td->shared ? 0 : -12);
	STEP("KVM_CREATE_GUEST_MEMFD", td->memory = KVM(SYS_ioctl, td->vm, KVM_CREATE_FILE, &file));
	STEP("KVM_SET_USER_MEMORY_REGION2", make_slot(td, 0));
	STEP("KVM_SET_MEMORY_ATTRIBUTES", KVM(SYS_ioctl, td->vm, KVM_SET_ATTRIBUTES, &private));
	if (td->tour)
		tour_not_final(td, &td->vcpu[0]);
	image.source = (u64)td->shared;
	if (td->image)
		STEP("TDX_INIT_MEM_REGION", tdx(td->vcpu[0].file, TDX_INIT_MEM_REGION, TDX_MEASURE,
						&image, &hw_error));
	STEP("TDX_FINALIZE_VM", tdx(td->vm, TDX_FINALIZE_VM, 0, 0, &hw_error));
	if (td->tour)
		tour_final(td, &td->vcpu[0]);
	return 0;
}

static long prefault(struct td *td, u32 vcpu, u64 gpa, u64 bytes)
{
	struct kvm_prefault range = { .gpa = gpa, .bytes = bytes };
	long result;

	do {
		result = KVM(SYS_ioctl, td->vcpu[vcpu].file, KVM_PREFAULT, &range);
	} while (result == -EINTR || result == -EAGAIN);
	return result;
}

static long interrupt(struct td *td, u32 vcpu, u32 vector)
{
	struct kvm_message message = {
		.address_low = 0xfee00000 | vcpu << 12, .data = vector,
	};

	long result = KVM(SYS_ioctl, td->vm, KVM_SIGNAL_MSI, &message);

	return result > 0 ? 0 : result;	/* above 0: to so many vCPUs */
}

static long obey(struct td *td)
{
	u64 a = td->args[0], b = td->args[1], c = td->args[2];

	switch (td->order) {
	case ORDER_PREFAULT:
		return prefault(td, a, b * PAGE, c * PAGE);
	case ORDER_PUNCH:
		return punch(td, td->gpa + a * PAGE, b * PAGE);
	case ORDER_ATTRIBUTES:
		return set_private(td, td->gpa + a * PAGE, b * PAGE, c);
	case ORDER_SLOT_DELETE:
		return delete_slot(td);
	case ORDER_SLOT_MAKE:
		return make_slot(td, a * PAGE);
	case ORDER_FORGET:
		return drop_pages(td->shared + a * PAGE, b * PAGE);
	case ORDER_INTERRUPT:
		return interrupt(td, a, b);
	case ORDER_NMI:
		return KVM(SYS_ioctl, td->vcpu[a].file, KVM_NMI, 0);
	case ORDER_ALIVE:
		tell_bugged(td);
		return 0;
	case ORDER_PLAIN_SLOT:
		return plain_slot(td, a * PAGE, b);
	default:
		return 0;
	}
}

/* Every file is closed before the process says so: the VM is gone by then. */
static void close_all(struct td *td)
{
	long process = SYS(SYS_getpid);
	u32 i;

	store(&td->stop, 1);
	for (i = 0; i < td->vcpus; i++) {
		struct vcpu *vcpu = &td->vcpu[i];

		if (load(&vcpu->state) == NOT_MADE)
			continue;
		while (load(&vcpu->state) != ENDED) {
			futex_wake(&vcpu->posted);
			SYS(SYS_tgkill, process, vcpu->tid, SIGUSR1);
			futex_wait(&vcpu->state, RUNNING, 1);
		}
	}
	KVM(SYS_close, td->memory);
	KVM(SYS_close, td->vm);
}

/* A signal only has to bring KVM_RUN back. */
static void on_signal(void)
{
}

static void __attribute__((naked)) signal_return(void)
{
	__asm__("mov $15, %eax\n\tsyscall");
}

static void catch_signals(void)
{
	struct { void *handler; u64 flags; void *restorer; u64 mask; } action = {
		on_signal, 0x04000000, signal_return, 0,
	};

	SYS(SYS_rt_sigaction, SIGUSR1, &action, 0, 8);
}

static int build(struct td *td)
{
	u32 i;

	if (make_vm(td))
		return -1;
	for (i = 0; i < td->vcpus; i++)
		if (make_vcpu(td, i))
			return -1;
	if (make_memory(td))
		return -1;
	for (i = 0; i < td->vcpus; i++)
		start_vcpu(td, i);
	return 0;
}

/* What could not be built is gone before anybody hears of it. */
static void undo(struct td *td)
{
	for (u32 i = 0; i < td->vcpus; i++) {
		if (td->vcpu[i].page)
			SYS(SYS_munmap, td->vcpu[i].page, 3 * PAGE);
		if (td->vcpu[i].file > 0)
			SYS(SYS_close, td->vcpu[i].file);
	}
	if (td->memory > 0)
		SYS(SYS_close, td->memory);
	if (td->vm > 0)
		SYS(SYS_close, td->vm);
}

void td_process(struct td *td)
{
	u32 seen = load(&td->answered);

	catch_signals();
	fail_in(td);
	td->result = 0;
	store(&td->alive, !build(td));
	if (!td->alive)
		undo(td);
	store(&td->answered, seen + 1);
	changed(td);
	if (!td->alive)
		SYS(SYS_exit_group, 1);
	seen++;
	for (;;) {
		while (load(&td->asked) == seen)
			futex_wait(&td->asked, seen, 1000);
		if (td->order == ORDER_CLOSE)
			break;
		td->result = obey(td);
		store(&td->answered, ++seen);
		changed(td);
	}
	close_all(td);
	if (td->fail)
		SAY("dpamt: td % allocations %", td->number, ALLOCATIONS - td->fail);
	SYS(SYS_exit_group, 0);
}
