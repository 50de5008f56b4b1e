/*
 * What the designs here need of a kernel: names that the kernel has, in dpamt's own words.
 * Functions that are only declared are answered by dpamt (docs/machine-code.md).
 */
#ifndef KERNEL_H
#define KERNEL_H

typedef unsigned long u64;
typedef unsigned int u32;
typedef unsigned short u16;
typedef struct { int counter; } atomic_t;
typedef struct { u32 word; } spinlock_t;

struct page { u64 flags; struct page *next, *prev; u64 rest[5]; };
_Static_assert(sizeof(struct page) == 64, "a struct page");

struct tdx_module_args { u64 rcx, rdx, r8, r9, r10, r11, r12, r13, r14, r15, rbx, rdi, rsi; };

extern u64 vmemmap_base;
extern void _raw_spin_lock(spinlock_t *lock);
extern void _raw_spin_unlock(spinlock_t *lock);
extern int _raw_spin_trylock(spinlock_t *lock);
extern struct page *alloc_pages_noprof(u32 gfp, u32 order);
extern void __free_pages(struct page *page, u32 order);
extern u64 __seamcall(u64 leaf, struct tdx_module_args *args);
extern u64 __seamcall_ret(u64 leaf, struct tdx_module_args *args);
extern void tdx_quirk_reset_paddr(u64 base, u64 size);
extern int _printk(const char *format, ...);

#define GFP_KERNEL 0xcc0
#define ENOMEM 12
#define EIO 5
#define PAGE_SIZE 4096ul
#define PAMT_ADD 58ul
#define PAMT_REMOVE 59ul
#define TDX_RND_NO_ENTROPY 0x8000020300000000ul
#define TDX_HPA_RANGE_NOT_FREE 0xc000030400000000ul
#define NULL ((void *)0)

#ifdef LOCKS_ARE_WORDS /* the lock is inlined: a test-and-set word */
static inline void spin_lock(spinlock_t *lock)
{
	u32 one;

	for (;;) {
		one = 1;
		asm volatile("xchgl %0, %1" : "+r"(one), "+m"(lock->word) : : "memory");
		if (!one)
			return;
		while (*(volatile u32 *)&lock->word)
			asm volatile("pause");
	}
}

static inline void spin_unlock(spinlock_t *lock)
{
	asm volatile("" : : : "memory");
	*(volatile u32 *)&lock->word = 0;
}
#else
#define spin_lock _raw_spin_lock
#define spin_unlock _raw_spin_unlock
#endif

static inline int atomic_read(const atomic_t *v)
{
	return *(const volatile int *)&v->counter;
}

static inline void atomic_set(atomic_t *v, int value)
{
	*(volatile int *)&v->counter = value;
}

static inline void atomic_inc(atomic_t *v)
{
	asm volatile("lock incl %0" : "+m"(v->counter) : : "memory");
}

static inline void atomic_dec(atomic_t *v)
{
	asm volatile("lock decl %0" : "+m"(v->counter) : : "memory");
}

static inline int atomic_dec_and_test(atomic_t *v)
{
	char zero;

	asm volatile("lock decl %0; sete %1" : "+m"(v->counter), "=qm"(zero) : : "memory");
	return zero;
}

static inline int atomic_cmpxchg(atomic_t *v, int old, int new)
{
	asm volatile("lock cmpxchgl %2, %1" : "+a"(old), "+m"(v->counter) : "r"(new) : "memory");
	return old;
}

static inline int atomic_add_unless(atomic_t *v, int delta, int unless)
{
	int seen = atomic_read(v), now;

	while (seen != unless) {
		now = atomic_cmpxchg(v, seen, seen + delta);
		if (now == seen)
			return 1;
		seen = now;
	}
	return 0;
}

#define atomic_inc_not_zero(v) atomic_add_unless(v, 1, 0)

static inline int atomic_dec_and_lock(atomic_t *v, spinlock_t *lock)
{
	if (atomic_add_unless(v, -1, 1))
		return 0;
	spin_lock(lock);
	if (atomic_dec_and_test(v))
		return 1;
	spin_unlock(lock);
	return 0;
}

/* A WARN that is told once: an undefined instruction with its entry in the table of bugs. */
#define WARN_ON_ONCE(condition) ({                                      \
	int warns = !!(condition);                                      \
	if (warns)                                                      \
		asm volatile("1: ud2\n"                                 \
			     ".pushsection __bug_table, \"aw\"\n"       \
			     "2: .long 1b - 2b\n"                       \
			     ".long 0\n"                                \
			     ".word %c0, 3\n"                           \
			     ".popsection" : : "i"(__LINE__));          \
	warns; })

static inline u64 page_to_phys(struct page *page)
{
	return ((u64)page - vmemmap_base) / sizeof(*page) * PAGE_SIZE;
}

static inline struct page *phys_to_page(u64 phys)
{
	return (struct page *)(vmemmap_base + phys / PAGE_SIZE * sizeof(struct page));
}

static inline u64 region_of(u64 pfn)
{
	return (pfn & ~511ul) * PAGE_SIZE | 1;
}

/* The module draws random numbers: tried ten times, as the kernel does. */
static u64 tdh_phymem_pamt_add(u64 pfn, struct page **pair)
{
	struct tdx_module_args args = {
		.rcx = region_of(pfn),
		.rdx = page_to_phys(pair[0]),
		.r8 = page_to_phys(pair[1]),
	};
	int left = 10;
	u64 status;

	do
		status = __seamcall(PAMT_ADD, &args);
	while (status == TDX_RND_NO_ENTROPY && --left);
	return status;
}

static u64 tdh_phymem_pamt_remove(u64 pfn, struct page **pair)
{
	struct tdx_module_args args = { .rcx = region_of(pfn) };
	int left = 10;
	u64 status;

	do
		status = __seamcall_ret(PAMT_REMOVE, &args);
	while (status == TDX_RND_NO_ENTROPY && --left);
	if (!status) {
		pair[0] = phys_to_page(args.rdx);
		pair[1] = phys_to_page(args.r8);
	}
	return status;
}

static void free_pair(struct page **pair)
{
	for (int i = 0; i < 2; i++)
		if (pair[i])
			__free_pages(pair[i], 0);
}

static void reset_and_free_pair(struct page **pair)
{
	for (int i = 0; i < 2; i++) {
		if (!pair[i])
			continue;
		tdx_quirk_reset_paddr(page_to_phys(pair[i]), PAGE_SIZE);
		__free_pages(pair[i], 0);
	}
}

static int alloc_pair(struct page **pair)
{
	for (int i = 0; i < 2; i++) {
		pair[i] = alloc_pages_noprof(GFP_KERNEL, 0);
		if (!pair[i]) {
			free_pair(pair);
			return -ENOMEM;
		}
	}
	return 0;
}

#endif
