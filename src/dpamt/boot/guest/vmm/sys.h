/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * System calls without a C library, and what the VMM prints: whole lines, each one write.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

enum {
	SYS_read = 0, SYS_write = 1, SYS_open = 2, SYS_close = 3, SYS_mmap = 9, SYS_munmap = 11,
	SYS_rt_sigaction = 13, SYS_ioctl = 16, SYS_pread64 = 17, SYS_pwrite64 = 18, SYS_madvise = 28,
	SYS_nanosleep = 35, SYS_getpid = 39, SYS_clone = 56, SYS_fork = 57, SYS_exit = 60,
	SYS_wait4 = 61, SYS_kill = 62, SYS_mlock = 149, SYS_mount = 165, SYS_reboot = 169,
	SYS_gettid = 186, SYS_futex = 202, SYS_sched_setaffinity = 203, SYS_tgkill = 234, SYS_exit_group = 231,
	SYS_fallocate = 285, SYS_finit_module = 313,
};

enum {
	PROT_RW = 3, MAP_SHARED = 1, MAP_PRIVATE = 2, MAP_FIXED = 0x10, MAP_ANONYMOUS = 0x20,
	MAP_NORESERVE = 0x4000, MAP_POPULATE = 0x8000,
	MADV_DONTNEED = 4, O_RDWR = 2, O_CLOEXEC = 02000000,
	EINTR = 4, EAGAIN = 11, EFAULT = 14, ENOSYS = 38, ETIMEDOUT = 110, SIGKILL = 9, SIGUSR1 = 10,
	WNOHANG = 1, FUTEX_WAIT = 0, FUTEX_WAKE = 1,
	/* Keep the size; punch a hole and keep it. */
	FALLOCATE_KEEP = 1, FALLOCATE_PUNCH = 3,
};

#define PAGE 4096UL

static inline long sys6(long n, long a, long b, long c, long d, long e, long f)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

#define SYS(n, ...) SYS_(n, ##__VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define SYS_(n, a, b, c, d, e, f, ...) \
	sys6(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

static inline void *map_pages(u64 size, int flags)
{
	long at = SYS(SYS_mmap, 0, size, PROT_RW, flags | MAP_ANONYMOUS, -1);

	return at < 0 && at > -4096 ? 0 : (void *)at;
}

/* Woken when *word is not `value` any more, or after `ms` milliseconds. */
static inline void futex_wait(u32 *word, u32 value, long ms)
{
	long time[2] = { ms / 1000, ms % 1000 * 1000000 };

	SYS(SYS_futex, word, FUTEX_WAIT, value, time);
}

static inline void futex_wake(u32 *word)
{
	SYS(SYS_futex, word, FUTEX_WAKE, 0x7fffffff);
}

static inline u32 load(u32 *word)
{
	return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static inline void store(u32 *word, u32 value)
{
	__atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

/* One line: text and numbers; `%` is a number, `&` one in hexadecimal. */
#define SAY(text, ...) \
	do { \
		const u64 said[] = { 0, ##__VA_ARGS__ }; \
		say_line(text, said + 1); \
	} while (0)

void say_line(const char *text, const u64 *numbers);
