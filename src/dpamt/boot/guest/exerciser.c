// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The exerciser: a module that does with a TDX host what KVM would, from several kernel threads, and
 * tells on the console what came of it.  It runs while it is loaded, and is named kvm-intel because
 * the SEAMCALL wrappers are exported to that name alone.
 *
 * Each line that it prints begins with "dpamt: "; docs/boot.md lists them.
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "exerciser.h"

#define MAX_THREADS 64
#define MAX_REGIONS 8

static char *mode = "life";
module_param(mode, charp, 0);
MODULE_PARM_DESC(mode, "life, hammer, hostile, or replay: one get, use, put as it is scheduled");
static char *design = "merged";
module_param(design, charp, 0);
MODULE_PARM_DESC(design, "merged, v6, v2, v5, kernel: its own, or none: no page pair is added or removed");
static char *bug = "none";
module_param(bug, charp, 0);
MODULE_PARM_DESC(bug, "none, put-too-many, missing-get or unlocked-count");
static int threads = 2;
module_param(threads, int, 0);
static int rounds = 1;
module_param(rounds, int, 0);
MODULE_PARM_DESC(rounds, "lives of a TD in each thread; rounds of get, use, put");
static int use_every = 1;
module_param(use_every, int, 0);
MODULE_PARM_DESC(use_every, "in the hammer: the page is used in every n-th round");
static int pause;
module_param(pause, int, 0);
MODULE_PARM_DESC(pause, "in the hammer: microseconds between two rounds of a thread");
static int regions[MAX_THREADS];
module_param_array(regions, int, NULL, 0);
MODULE_PARM_DESC(regions, "replay: in which 2M region the page of each thread is");
static int uses[MAX_THREADS];
module_param_array(uses, int, NULL, 0);
MODULE_PARM_DESC(uses, "replay: 1 where the thread gives its page to a TD between get and put");
static int fail;
module_param(fail, int, 0);
MODULE_PARM_DESC(fail, "allocations of the threads fail, if fail_page_alloc is set up to");
unsigned long kernel_counts;
module_param(kernel_counts, ulong, 0);
MODULE_PARM_DESC(kernel_counts, "address of pamt_refcounts");
unsigned long kernel_max_pfn;
module_param(kernel_max_pfn, ulong, 0);
MODULE_PARM_DESC(kernel_max_pfn, "address of max_pfn");
static unsigned long seamcall;
module_param(seamcall, ulong, 0);
MODULE_PARM_DESC(seamcall, "address of __seamcall_ret");

enum design chosen_design;
enum bug chosen_bug;

#define BUG_EVERY 64	/* rounds */

u64 raw_seamcall(u64 leaf, struct tdx_module_args *args)
{
	u64 (*function)(u64 leaf, struct tdx_module_args *args) = (void *)seamcall;
	u64 status;
	int tries = 10;

	do {
		preempt_disable();
		status = function(leaf, args);
		preempt_enable();
	} while (status == 0x8000020300000000ULL && --tries);	/* TDX_RND_NO_ENTROPY */
	return status;
}

struct worker {
	int number;
	struct task_struct *task;
	struct completion done;
	struct page **region;	/* of the hammer, 2 MiB each */
	long did;
	long scant;	/* rounds given up: no page or no pair to be had */
	long failed;
	u64 status;
	const char *what;
};

/* This task's allocations fail as /sys/kernel/debug/fail_page_alloc says (task-filter). */
static void let_allocations_fail(bool on)
{
#ifdef CONFIG_FAULT_INJECTION
	current->make_it_fail = fail && on;
#endif
}

static void note(struct worker *w, struct test_td *t)
{
	if (!t->failed)
		return;
	w->failed++;
	if (!w->what) {
		w->what = t->failed;
		w->status = t->status;
	}
	t->failed = NULL;
}

/* One TD from creation to its last page. */
static void live(struct worker *w)
{
	struct test_td *t = kzalloc(sizeof(*t), GFP_KERNEL);
	bool scant = true;
	int n;

	if (!t)
		goto no_memory;
	let_allocations_fail(true);
	if (td_build(t)) {
		scant = !t->failed;
	} else {
		scant = false;
		for (n = 1; n < TD_PAGES; n++) {
			struct page *page = alloc_control_page();

			if (!page) {
				scant = true;
				break;
			}
			if (td_add_page(t, (u64)n << PAGE_SHIFT, page)) {
				free_control_page(page);
				break;
			}
			t->guest[n] = page;
		}
		/* Every second page goes while the TD lives, the rest with it. */
		for (n = 0; n < TD_PAGES && t->guest[n]; n += 2) {
			if (td_remove_page(t, (u64)n << PAGE_SHIFT, page_to_pfn(t->guest[n])))
				break;
			free_control_page(t->guest[n]);
			t->guest[n] = NULL;
		}
	}
	let_allocations_fail(false);
	td_teardown(t);
	note(w, t);
	kfree(t);
no_memory:
	w->scant += scant;
	w->did++;
}

/* get, use, put of one page of a region that all threads share. */
static void hammer(struct worker *w)
{
	struct test_td *t = kzalloc(sizeof(*t), GFP_KERNEL);
	struct page *page = w->region[0] + w->number;
	unsigned long pfn = page_to_pfn(page);
	int n;

	if (!t) {
		w->scant++;
		return;
	}
	if (td_build(t)) {
		w->scant += !t->failed;
		note(w, t);
		td_teardown(t);
		kfree(t);
		return;
	}
	let_allocations_fail(true);
	for (n = 0; n < rounds; n++) {
		bool seeded = n % BUG_EVERY == BUG_EVERY - 1;
		bool skip = chosen_bug == SEEDED_MISSING_GET && seeded;

		int error = skip ? 0 : pamt_get(pfn);

		if (error) {
			if (error == -ENOMEM)
				w->scant++;
			else
				w->failed++;
			continue;
		}
		if (n % use_every == 0 || skip) {
			if (!td_add_page(t, PAGE_SIZE, page))
				td_remove_page(t, PAGE_SIZE, pfn);
		}
		pamt_put(pfn);
		if (chosen_bug == SEEDED_PUT_TOO_MANY && seeded)
			pamt_put(pfn);
		note(w, t);
		w->did++;
		udelay(pause);
		if (n % 256 == 255)
			cond_resched();
	}
	let_allocations_fail(false);
	td_teardown(t);
	note(w, t);
	kfree(t);
}

/* Wait for all threads: asleep for those that take long, awake for the last of the way. */
static void meet(atomic_t *here, atomic_t *awake)
{
	atomic_inc(here);
	while (atomic_read(here) < threads)
		usleep_range(100, 1000);
	/* A CPU that is held keeps the time of others from going on: none may be asleep then. */
	atomic_inc(awake);
	while (atomic_read(awake) < threads)
		cpu_relax();
}

/* One get, use, put, each step when it is its turn. */
static void follow(struct worker *w)
{
	static atomic_t ready, awake, done, gone;
	struct test_td *t = kzalloc(sizeof(*t), GFP_KERNEL);
	struct page *page = w->region[regions[w->number]] + w->number;
	unsigned long pfn = page_to_pfn(page);
	bool scant = !t || (td_build(t) && !t->failed);
	int error;

	meet(&ready, &awake);
	step(STEP_BEGIN);
	error = pamt_get(pfn);
	if (error) {
		scant |= error == -ENOMEM;
		w->failed += error != -ENOMEM;
	} else if (!t || !uses[w->number]) {
		pamt_put(pfn);
	} else if (td_add_page(t, PAGE_SIZE, page)) {
		pamt_put(pfn);
	} else if (!td_remove_page(t, PAGE_SIZE, pfn)) {
		pamt_put(pfn);
	}
	step(STEP_END);
	meet(&done, &gone);
	w->scant += scant;
	w->did++;
	if (!t)
		return;
	td_teardown(t);
	note(w, t);
	kfree(t);
}

/* Pointers to nowhere and leaves that are none; all must be refused. */
static void be_hostile(struct worker *w)
{
	static const u64 bad[] = {
		0, 1, 0xfff, 1ULL << 40, 1ULL << 51, 1ULL << 52, ~0ULL, 0x8000000000000000ULL,
		0xdead000, 0x100000000ULL, 0x7fffffff000ULL,
	};
	int n, leaf;

	for (n = 0; n < rounds; n++) {
		for (leaf = 0; leaf < 200; leaf++) {
			u64 first = bad[(n + leaf) % ARRAY_SIZE(bad)];
			struct tdx_module_args args = {
				.rcx = first, .rdx = bad[n % ARRAY_SIZE(bad)],
				.r8 = first ^ ~0ULL, .r9 = first, .r12 = first, .r13 = ~first,
			};

			if (leaf == 52)	/* SYS.SHUTDOWN would be the end of it */
				continue;
			if (!raw_seamcall(leaf, &args))
				w->failed++;
			w->did++;
		}
		cond_resched();
	}
}

static int work(void *data)
{
	struct worker *w = data;
	int n;

	if (!strcmp(mode, "hammer"))
		hammer(w);
	else if (!strcmp(mode, "hostile"))
		be_hostile(w);
	else if (!strcmp(mode, "replay"))
		follow(w);
	else
		for (n = 0; n < rounds; n++)
			live(w);
	complete(&w->done);
	while (!kthread_should_stop())
		usleep_range(100, 1000);
	return 0;
}

static int choose(const char *what, const char *value, const char * const *known, int count)
{
	int n = match_string(known, count, value);

	if (n < 0)
		pr_err(DPAMT "refused %s=%s\n", what, value);
	return n;
}

static int read_parameters(void)
{
	static const char * const modes[] = { "life", "hammer", "hostile", "replay" };
	static const char * const designs[] = { "none", "merged", "v6", "kernel", "v2", "v5" };
	static const char * const bugs[] = {
		"none", "put-too-many", "missing-get", "unlocked-count",
	};
	int which_design = choose("design", design, designs, ARRAY_SIZE(designs));
	int which_bug = choose("bug", bug, bugs, ARRAY_SIZE(bugs));
	int n;

	if (which_design < 0 || which_bug < 0 || choose("mode", mode, modes, ARRAY_SIZE(modes)) < 0)
		return -EINVAL;
	if (threads < 1 || threads > MAX_THREADS || rounds < 1 || use_every < 1 || !seamcall) {
		pr_err(DPAMT "refused threads=%d rounds=%d use_every=%d\n", threads, rounds, use_every);
		return -EINVAL;
	}
	for (n = 0; n < MAX_THREADS; n++)
		if (regions[n] < 0 || regions[n] >= MAX_REGIONS)
			return -EINVAL;
	if (which_design == DESIGN_KERNEL && (!IS_ENABLED(DPAMT_KERNEL_PAMT) || !kernel_max_pfn)) {
		pr_err(DPAMT "refused design=kernel: it has no get and put\n");
		return -EINVAL;
	}
	if (fail && !IS_ENABLED(CONFIG_FAIL_PAGE_ALLOC)) {
		pr_err(DPAMT "refused fail=%d: CONFIG_FAIL_PAGE_ALLOC is not set\n", fail);
		return -EINVAL;
	}
	chosen_design = which_design;
	chosen_bug = which_bug;
	scheduled = !strcmp(mode, "replay");
	return 0;
}

static void run(struct worker *workers, struct page **region)
{
	int n, cpu = cpumask_first(cpu_online_mask);

	for (n = 0; n < threads; n++) {
		struct worker *w = &workers[n];

		w->number = n;
		w->region = region;
		init_completion(&w->done);
		w->task = kthread_create(work, w, "dpamt/%d", n);
		if (IS_ERR(w->task)) {
			w->task = NULL;
			continue;
		}
		kthread_bind(w->task, cpu);
		cpu = cpumask_next(cpu, cpu_online_mask);
		if (cpu >= nr_cpu_ids)
			cpu = cpumask_first(cpu_online_mask);
	}
	for (n = 0; n < threads; n++)
		if (workers[n].task)
			wake_up_process(workers[n].task);
	for (n = 0; n < threads; n++) {
		struct worker *w = &workers[n];

		if (!w->task)
			continue;
		wait_for_completion(&w->done);
		kthread_stop(w->task);
		pr_info(DPAMT "thread %d did %ld scant %ld failed %ld first %s status 0x%llx\n", n,
			w->did, w->scant, w->failed, w->what ?: "-", w->status);
	}
}

static int __init exerciser_init(void)
{
	static struct page *region[MAX_REGIONS];
	struct worker *workers;
	int n, wanted = 1, error = read_parameters();

	if (error)
		return error;
	pr_info(DPAMT "begin mode %s design %s bug %s threads %d rounds %d fail %d\n", mode, design,
		bug, threads, rounds, fail);
	workers = kcalloc(threads, sizeof(*workers), GFP_KERNEL);
	for (n = 0; n < threads; n++)
		wanted = max(wanted, regions[n] + 1);
	error = pamt_init();
	for (n = 0; n < wanted; n++) {
		region[n] = alloc_pages(GFP_KERNEL | __GFP_NOWARN, 9);
		if (!region[n])
			error = -ENOMEM;
	}
	if (!workers || error) {
		pr_err(DPAMT "refused: no memory\n");
		error = -ENOMEM;
	} else {
		run(workers, region);
		pr_info(DPAMT "end counted %ld\n", pamt_counted());
		error = -ECANCELED;	/* done: nothing is to stay loaded */
	}
	for (n = 0; n < wanted; n++)
		if (region[n])
			__free_pages(region[n], 9);
	pamt_exit();
	kfree(workers);
	return error;
}
module_init(exerciser_init);

MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("dpamt: TD life cycles and page pairs from kernel threads");
