// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Announcements: a SEAMCALL with a leaf that no module has, RCX what is to be done, RDX what came of
 * the step before.  dpamt answers it when the thread is to go on; the module never sees it.
 */
#include <linux/percpu.h>

#include "exerciser.h"

#define LEAF_STEP	0xfff0

bool scheduled;
static DEFINE_PER_CPU(long, last_result);

void step(enum step what)
{
	struct tdx_module_args args = { .rcx = what };

	if (!scheduled)
		return;
	args.rdx = this_cpu_xchg(last_result, 0);
	raw_seamcall(LEAF_STEP, &args);
}

/* Threads keep to their CPUs. */
long came(long result)
{
	this_cpu_write(last_result, result);
	return result;
}
