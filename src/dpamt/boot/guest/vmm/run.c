// SPDX-License-Identifier: GPL-2.0 OR MIT
/* A vCPU's thread: KVM_RUN until the TD is to stop, and what is done about each exit. */
#include "vmm.h"

enum { CLONE_FLAGS = 0x50f00, STACK = 64 << 10 };	/* a thread: VM, FS, FILES, SIGHAND, THREAD, SYSVSEM */

void changed(struct td *td)
{
	__atomic_add_fetch(&td->changes, 1, __ATOMIC_SEQ_CST);
	futex_wake(&td->changes);
}

static void set_state(struct td *td, struct vcpu *vcpu, u32 state)
{
	store(&vcpu->state, state);
	changed(td);
}

/* The guest's next instruction: waits for one.  0 when the TD is to stop. */
static int next_word(struct td *td, struct vcpu *vcpu, u64 *word)
{
	if (load(&vcpu->taken) == load(&vcpu->posted))
		set_state(td, vcpu, IDLE);
	while (!load(&td->stop)) {
		u32 posted = load(&vcpu->posted);

		if (vcpu->taken != posted) {
			if (load(&vcpu->state) == IDLE)
				store(&vcpu->state, RUNNING);
			*word = vcpu->words[vcpu->taken % MAX_WORDS];
			store(&vcpu->taken, vcpu->taken + 1);
			return 1;
		}
		futex_wait(&vcpu->posted, posted, 1000);
	}
	return 0;
}

/* What ends a vCPU: an error, or an exit that no VMM goes on after. */
static int end(struct vcpu *vcpu, int error, u64 detail)
{
	vcpu->error = error;
	vcpu->why = vcpu->page->exit_reason;
	vcpu->detail = detail;
	return 0;
}

/* 1: enter again. */
static int memory_fault(struct td *td, struct vcpu *vcpu)
{
	struct kvm_run_page *page = vcpu->page;
	int private = !!(page->fault.flags & KVM_FAULT_PRIVATE);
	long result = set_private(td, page->fault.gpa, page->fault.bytes, private);

	return result ? end(vcpu, result, page->fault.gpa) : 1;
}

/* What a device gives that is read. */
static const u64 device = 0x1122334455667788;

static void copy(u8 *to, const u8 *from, u32 bytes)
{
	while (bytes--)
		*to++ = *from++;
}

/* An exit with what it carries, for TDs that tell each of theirs. */
static void tell_exit(struct td *td, struct vcpu *vcpu)
{
	struct kvm_run_page *page = vcpu->page;
	u64 n = td->number, v = vcpu - td->vcpu, kind = page->exit_reason, data = 0;

	switch (kind) {
	case EXIT_IO:
		if (page->io.direction)
			copy((u8 *)&data, (u8 *)page + page->io.data_offset, page->io.size);
		SAY("dpamt: td % vcpu % saw % & & & &", n, v, kind, page->io.direction, page->io.port,
		    page->io.size, data);
		break;
	case EXIT_MMIO:
		if (page->mmio.gpa == NEXT_WORD_GPA)
			break;
		if (page->mmio.is_write)
			copy((u8 *)&data, page->mmio.data, page->mmio.bytes);
		SAY("dpamt: td % vcpu % saw % & & & &", n, v, kind, page->mmio.is_write, page->mmio.gpa,
		    page->mmio.bytes, data);
		break;
	case EXIT_HYPERCALL:
		SAY("dpamt: td % vcpu % saw % & & &", n, v, kind, page->hypercall.args[0],
		    page->hypercall.args[1], page->hypercall.args[2]);
		break;
	case EXIT_SYSTEM_EVENT:
		SAY("dpamt: td % vcpu % saw % & & &", n, v, kind, page->event.type,
		    page->event.count, page->event.data[12]);
		break;
	case EXIT_MEMORY_FAULT:
		SAY("dpamt: td % vcpu % saw % & & &", n, v, kind, page->fault.flags, page->fault.gpa,
		    page->fault.bytes);
		break;
	default:
		SAY("dpamt: td % vcpu % saw %", n, v, kind);
	}
}

static int handle_exit(struct td *td, struct vcpu *vcpu)
{
	struct kvm_run_page *page = vcpu->page;
	u64 word;
	long result;

	switch (page->exit_reason) {
	case EXIT_MMIO:
		if (page->mmio.is_write)
			return 1;
		word = td->tells ? device : 0;
		if (page->mmio.gpa == NEXT_WORD_GPA && !next_word(td, vcpu, &word))
			return 0;
		*(u64 *)page->mmio.data = word;
		return 1;
	case EXIT_HYPERCALL:
		result = -1;
		if (page->hypercall.number == KVM_HC_MAP_GPA_RANGE)
			result = set_private(td, page->hypercall.args[0],
					     page->hypercall.args[1] * PAGE,
					     !!(page->hypercall.args[2] & KVM_MAP_ENCRYPTED));
		if (result)
			return end(vcpu, result, page->hypercall.args[0]);
		page->hypercall.result = 0;
		return 1;
	case EXIT_IO:
		if (td->tells && !page->io.direction)
			copy((u8 *)page + page->io.data_offset, (const u8 *)&device, page->io.size);
		return 1;
	case EXIT_TDX:
		page->tdx.result = 0;
		return 1;
	case EXIT_SYSTEM_EVENT:
		return end(vcpu, 0, page->event.type);
	case EXIT_SHUTDOWN:
		return end(vcpu, 0, 0);
	default:
		return end(vcpu, 0, page->exit_reason == EXIT_INTERNAL_ERROR ?
			   page->internal.data[0] : page->internal.suberror);
	}
}

static void run_vcpu(struct td *td, struct vcpu *vcpu)
{
	int go_on = 1;

	/* A vCPU runs when there is something for it to do, not before. */
	while (!load(&td->stop) && !load(&vcpu->posted))
		futex_wait(&vcpu->posted, 0, 1000);
	if (!load(&td->stop))
		store(&vcpu->state, RUNNING);
	while (go_on && !load(&td->stop)) {
		long result = KVM(SYS_ioctl, vcpu->file, KVM_RUN);

		if (result == -EINTR || result == -EAGAIN)
			continue;
		if (result < 0 && !(result == -EFAULT && vcpu->page->exit_reason == EXIT_MEMORY_FAULT)) {
			end(vcpu, result, 0);
			break;
		}
		if (vcpu->page->exit_reason < EXIT_KINDS)
			vcpu->exits[vcpu->page->exit_reason]++;
		if (td->tells)
			tell_exit(td, vcpu);
		go_on = result < 0 ? memory_fault(td, vcpu) : handle_exit(td, vcpu);
	}
	/* The mapped page keeps the VM alive. */
	KVM(SYS_munmap, vcpu->page, 3 * PAGE);
	KVM(SYS_close, vcpu->file);
	set_state(td, vcpu, ENDED);
	SYS(SYS_exit, 0);
}

static void __attribute__((noreturn, used)) thread_main(struct td *td, struct vcpu *vcpu)
{
	vcpu->tid = SYS(SYS_gettid);
	run_vcpu(td, vcpu);
	__builtin_unreachable();
}

int start_vcpu(struct td *td, u32 index)
{
	struct vcpu *vcpu = &td->vcpu[index];
	u8 *stack = map_pages(STACK, MAP_PRIVATE);
	void **top = (void **)(stack + STACK);
	long result;

	if (!stack)
		return -12;
	*--top = vcpu;
	*--top = td;
	*--top = (void *)thread_main;
	set_state(td, vcpu, IDLE);
	/* The child begins on its own stack: function, TD and vCPU lie there. */
	__asm__ volatile("xor %%r10d, %%r10d\n\t"
			 "xor %%r8d, %%r8d\n\t"
			 "syscall\n\t"
			 "test %%eax, %%eax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "pop %%rax\n\t"
			 "pop %%rdi\n\t"
			 "pop %%rsi\n\t"
			 "and $-16, %%rsp\n\t"
			 "call *%%rax\n"
			 "1:"
			 : "=a"(result)
			 : "a"((long)SYS_clone), "D"((long)CLONE_FLAGS), "S"(top), "d"(0L)
			 : "rcx", "r8", "r10", "r11", "memory");
	return result < 0 ? result : 0;
}
