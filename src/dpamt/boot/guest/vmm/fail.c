// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * System calls to KVM, and the one memory allocation among all of theirs that is to fail.
 *
 * The kernel counts a task's allocations down from what is written to its fail-nth, and fails the
 * one that comes to 0 (Documentation/fault-injection/fault-injection.rst).  A TD has several tasks:
 * the count goes from one call to the next, and a call that is made while another has it fails
 * nothing.
 */
#include "vmm.h"

static struct td *own;		/* this process's */

void fail_in(struct td *td)
{
	own = td;
}

static void write_file(const char *path, const char *text, u64 bytes)
{
	long file = SYS(SYS_open, path, 1 | O_CLOEXEC);

	if (file < 0)
		return;
	SYS(SYS_write, file, text, bytes);
	SYS(SYS_close, file);
}

/* Pages that may be waited for, single ones too; and a report of each, however many come. */
void make_allocations_fail(void)
{
	SYS(SYS_mount, "debug", "/sys/kernel/debug", "debugfs", 0, 0);
	write_file("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N", 1);
	write_file("/sys/kernel/debug/fail_page_alloc/ignore-gfp-highmem", "N", 1);
	write_file("/sys/kernel/debug/fail_page_alloc/min-order", "0", 1);
	write_file("/sys/kernel/debug/fail_page_alloc/verbose_ratelimit_interval_ms", "0", 1);
	write_file("/sys/kernel/debug/failslab/ignore-gfp-wait", "N", 1);
	write_file("/sys/kernel/debug/failslab/verbose_ratelimit_interval_ms", "0", 1);
}

/* The number behind `word`, where `at` has it; else 0. */
static u32 number_behind(const char *at, const char *word)
{
	u32 value = 0;

	while (*word)
		if (*at++ != *word++)
			return 0;
	while (*at == ' ')
		at++;
	while (*at >= '0' && *at <= '9')
		value = value * 10 + *at++ - '0';
	return value;
}

/* Of the whole machine, those in the lists of each CPU too. */
u32 free_pages(void)
{
	static char text[64 << 10];
	long file = SYS(SYS_open, "/proc/zoneinfo", O_CLOEXEC), got;
	u64 size = 0;
	u32 pages = 0;

	while (size < sizeof(text) - 1 &&
	       (got = SYS(SYS_read, file, text + size, sizeof(text) - 1 - size)) > 0)
		size += got;
	SYS(SYS_close, file);
	text[size] = 0;
	for (u64 at = 0; at < size; at++)
		pages += number_behind(text + at, "pages free ") + number_behind(text + at, " count:");
	return pages;
}

static void set_nth(long file, u32 value)
{
	char text[12];
	u32 at = sizeof(text);

	do
		text[--at] = '0' + value % 10;
	while (value /= 10);
	SYS(SYS_pwrite64, file, text + at, sizeof(text) - at, 0);
}

static u32 get_nth(long file)
{
	char text[12];
	long bytes = SYS(SYS_pread64, file, text, sizeof(text), 0);
	u32 value = 0;

	for (long at = 0; at < bytes && text[at] >= '0' && text[at] <= '9'; at++)
		value = value * 10 + text[at] - '0';
	return value;
}

long kvm_call(long n, long a, long b, long c, long d, long e, long f)
{
	u32 left = own ? __atomic_exchange_n(&own->fail, 0, __ATOMIC_SEQ_CST) : 0;
	long file, result;

	if (!left)
		return sys6(n, a, b, c, d, e, f);
	file = SYS(SYS_open, "/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	set_nth(file, left);
	result = sys6(n, a, b, c, d, e, f);
	left = get_nth(file);
	set_nth(file, 0);
	SYS(SYS_close, file);
	if (left) {
		store(&own->fail, left);
	} else {
		store(&own->failed, 1);
		SAY("dpamt: td % allocation failed in call % result %", own->number, n, -result);
	}
	return result;
}
