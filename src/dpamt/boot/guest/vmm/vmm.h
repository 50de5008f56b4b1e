/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What the conductor (process 1) and the process of each TD share: orders, and the words that the
 * guests get as their next instructions.
 */

#include "sys.h"
#include "kvm_abi.h"

enum { MAX_TDS = 32, MAX_VCPUS = 16, MAX_WORDS = 1 << 15 };

/* More allocations than a TD's life has: none of them fails, and they are counted. */
enum { ALLOCATIONS = 0x7fffffff };

/* Where a guest reads its next instruction: 8 bytes of MMIO.  dpamt/boot/kvm/guest.py has it too. */
#define NEXT_WORD_GPA (1UL << 40)

/* States of a vCPU. */
enum { NOT_MADE, RUNNING, IDLE, ENDED };

struct vcpu {
	u32 posted;		/* words that may be taken; written by the conductor */
	u32 written;		/* words that are there */
	u32 taken;		/* words that the guest has got */
	u32 state;
	u32 tid;
	int file;
	struct kvm_run_page *page;
	u64 words[MAX_WORDS];
	u64 exits[EXIT_KINDS];	/* by reason */
	u32 told;		/* that it ended */
	int error;		/* of the KVM_RUN that ended it */
	u64 why;		/* exit reason that ended it */
	u64 detail;
};

/* What the conductor wants of a TD's process. */
enum order {
	ORDER_NONE, ORDER_PREFAULT, ORDER_PUNCH, ORDER_ATTRIBUTES, ORDER_SLOT_DELETE,
	ORDER_SLOT_MAKE, ORDER_FORGET, ORDER_INTERRUPT, ORDER_NMI, ORDER_ALIVE,
	ORDER_PLAIN_SLOT, ORDER_CLOSE,
};

struct td {
	u32 number, vcpus, tour, tells;	/* tells: each exit */
	u64 pages, image;
	int process;		/* 0: none */
	u32 alive;
	u32 asked, answered;	/* number of the order, and of the last one that was done */
	u32 order;
	long args[3];
	long result;
	u32 stop;
	u32 fail;		/* the allocation that is to fail, from now on; 0: none */
	u32 failed;		/* whether it did */
	u32 changes;		/* counts whatever the conductor may be waiting for */
	int kvm, vm, memory;	/* files */
	u8 *shared;		/* the VMM's own mapping: what shared pages are backed by */
	u64 gpa;		/* where the memory slot is */
	struct vcpu vcpu[MAX_VCPUS];
};

/* vmm.c: dpamt reads from outside what step a TD is in; 0: none. */
void tell_step(struct td *td, const char *step);
/* fail.c: every call to KVM goes through it. */
long kvm_call(long n, long a, long b, long c, long d, long e, long f);
void fail_in(struct td *td);
void make_allocations_fail(void);
u32 free_pages(void);
#define KVM(n, ...) KVM_(n, ##__VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define KVM_(n, a, b, c, d, e, f, ...) \
	kvm_call(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
/* td.c: the process of a TD; never returns. */
void td_process(struct td *td);
/* tour.c */
void tour_new_vm(struct td *td, u64 xfam);
void tour_new_vcpu(struct td *td, struct vcpu *vcpu);
void tour_not_final(struct td *td, struct vcpu *vcpu);
void tour_final(struct td *td, struct vcpu *vcpu);
/* run.c */
int start_vcpu(struct td *td, u32 index);
void changed(struct td *td);
/* memory.c */
long set_private(struct td *td, u64 gpa, u64 bytes, int private);
long punch(struct td *td, u64 gpa, u64 bytes);
long make_slot(struct td *td, u64 gpa);
long delete_slot(struct td *td);
long drop_pages(void *at, u64 bytes);
long plain_slot(struct td *td, u64 gpa, u64 pages);
void scatter(u64 regions);
