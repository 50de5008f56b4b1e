// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The first and only program of the guest: load the exerciser, take a CPU offline when asked, reboot.
 * No C library; built with -nostdlib -static.
 *
 * /parameters holds the module's parameters; /offline, when it is there, the number of a CPU; /fail
 * the share of page allocations that fail, in percent, for tasks that the module marks.
 */

typedef unsigned long ulong;

static long call(long number, long a, long b, long c, long d, long e)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
}

enum {
	SYS_read = 0, SYS_write = 1, SYS_open = 2, SYS_mount = 165, SYS_reboot = 169,
	SYS_finit_module = 313,
};

static long length(const char *text)
{
	long n = 0;

	while (text[n])
		n++;
	return n;
}

static void say(const char *text)
{
	call(SYS_write, 1, (long)text, length(text), 0, 0);
}

static void say_number(long value)
{
	char digits[24];
	int at = sizeof(digits);
	ulong rest = value < 0 ? -value : value;

	digits[--at] = 0;
	do {
		digits[--at] = '0' + rest % 10;
		rest /= 10;
	} while (rest);
	if (value < 0)
		digits[--at] = '-';
	say(digits + at);
}

/* The file's text without its line break; 0 when there is no such file. */
static int text_of(const char *name, char *buffer, long size)
{
	long fd = call(SYS_open, (long)name, 0, 0, 0, 0);
	long got;

	if (fd < 0)
		return 0;
	got = call(SYS_read, fd, (long)buffer, size - 1, 0, 0);
	if (got < 0)
		got = 0;
	while (got && buffer[got - 1] == '\n')
		got--;
	buffer[got] = 0;
	return 1;
}

static long write_to(const char *path, const char *text)
{
	long fd = call(SYS_open, (long)path, 1, 0, 0, 0);

	return fd < 0 ? fd : call(SYS_write, fd, (long)text, length(text), 0, 0);
}

/* Documentation/fault-injection/fault-injection.rst */
#define FAIL "/sys/kernel/debug/fail_page_alloc/"

static void fail_allocations(const char *percent)
{
	long result;

	call(SYS_mount, (long)"debugfs", (long)"/sys/kernel/debug", (long)"debugfs", 0, 0);
	write_to(FAIL "task-filter", "Y");
	write_to(FAIL "ignore-gfp-wait", "N");
	write_to(FAIL "min-order", "0");
	write_to(FAIL "verbose", "0");
	write_to(FAIL "times", "-1");
	result = write_to(FAIL "probability", percent);
	if (result < 0) {
		say("dpamt: refused: no fail_page_alloc in debugfs, result ");
		say_number(result);
		say("\n");
	}
}

static void offline(const char *cpu)
{
	char path[64] = "/sys/devices/system/cpu/cpu";
	long at = length(path), n;
	const char *rest = "/online";

	for (n = 0; cpu[n] && at < 50; n++)
		path[at++] = cpu[n];
	for (n = 0; rest[n]; n++)
		path[at++] = rest[n];
	path[at] = 0;
	n = write_to(path, "0");
	say("dpamt: offline ");
	say(cpu);
	say(" result ");
	say_number(n);
	say("\n");
}

__attribute__((force_align_arg_pointer, noreturn)) void _start(void)
{
	static char buffer[4096];
	long fd, result;

	call(SYS_mount, (long)"sysfs", (long)"/sys", (long)"sysfs", 0, 0);
	if (text_of("/fail", buffer, sizeof(buffer)))
		fail_allocations(buffer);
	if (text_of("/parameters", buffer, sizeof(buffer))) {
		fd = call(SYS_open, (long)"/exerciser.ko", 0, 0, 0, 0);
		result = call(SYS_finit_module, fd, (long)buffer, 0, 0, 0);
		say("dpamt: module result ");
		say_number(result);
		say("\n");
	}
	if (text_of("/offline", buffer, sizeof(buffer)))
		offline(buffer);
	call(SYS_reboot, 0xfee1dead, 672274793, 0x01234567, 0, 0);
	for (;;)
		;
}
