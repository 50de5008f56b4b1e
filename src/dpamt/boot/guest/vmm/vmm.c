// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * The first program of a guest of `dpamt boot --kvm`: it loads KVM, then conducts the TDs that a
 * script describes.  Each TD has a process of its own, as with any VMM.  No C library.
 *
 * /script has a command in each line (dpamt/boot/kvm/script.py writes it):
 *
 *   td N VCPUS PAGES IMAGE_PAGES [T]   a TD that can be built; T 1: with the tour of tour.c; 2: each
 *                                   exit of its vCPUs is told
 *   build N                         make it, measure it, start its vCPUs
 *   words N VCPU WORD...            instructions for a guest, not begun before go or start
 *   go                              all guests do theirs; until each has asked for more, or ended
 *   start                           the same without waiting
 *   pause MS                        give what was started time to come somewhere
 *   order N KIND A B C [ERRNO]      something that the VMM itself does, and the error that is due
 *   close N, kill N                 end it in order, or by SIGKILL
 *   failing                         let allocations be failed (fail.c)
 *   fail N NUMBER                   the allocation of TD N's next life that fails
 *   patience N                      from now on, a signal ends what does not return in N times 100 ms
 *   scatter N                       leave free pages in N 2M regions, one each, and hold the rest
 *   phase K                         tell dpamt, and wait until it has taken stock
 *
 * A command for a TD that could not be built, or has died, is passed over and counted.
 */
#include "vmm.h"

static struct td *tds;
static u32 *door;	/* [0] what we say, [1] the last of it that dpamt has seen, [2] 1: that is enough, [3] 1: an allocation failed,
			   [4] free pages of the machine */
static u32 passed_over;
static char *script;
static long log = 1;	/* the kernel's own, so that no line of its and no line of ours mix */

void say_line(const char *text, const u64 *numbers)
{
	char line[400];
	u32 at = 0;

	for (; *text && at < sizeof(line) - 24; text++) {
		u32 base = *text == '%' ? 10 : *text == '&' ? 16 : 0;
		char digits[24];
		u32 n = 0;
		u64 rest;

		if (!base) {
			line[at++] = *text;
			continue;
		}
		rest = *numbers++;
		if (base == 16) {
			line[at++] = '0';
			line[at++] = 'x';
		} else if ((long)rest < 0) {
			line[at++] = '-';
			rest = -rest;
		}
		do {
			digits[n++] = "0123456789abcdef"[rest % base];
			rest /= base;
		} while (rest);
		while (n)
			line[at++] = digits[--n];
	}
	line[at++] = '\n';
	SYS(SYS_write, log, line, at);
}

static u64 length(const char *text)
{
	u64 n = 0;

	while (text[n])
		n++;
	return n;
}

static void pause_ms(long ms)
{
	long time[2] = { ms / 1000, ms % 1000 * 1000000 };

	SYS(SYS_nanosleep, time, 0);
}

static void __attribute__((noreturn)) reboot(void)
{
	SYS(SYS_reboot, 0xfee1dead, 672274793, 0x01234567, 0);
	for (;;)
		;
}

static void load_module(const char *path, const char *parameters)
{
	long file = SYS(SYS_open, path, O_CLOEXEC);
	long result = file < 0 ? file : SYS(SYS_finit_module, file, parameters, 0);

	if (file >= 0)
		SYS(SYS_close, file);
	if (result < 0) {
		say_line("dpamt: not loaded:", 0);
		say_line(path, 0);
		SAY("dpamt: error %", -result);
		reboot();
	}
}

/* Where a section of kvm-intel.ko lies, for the lines that ran. */
static void tell_section(const char *name, const char *path)
{
	char line[128] = "dpamt: section ";
	u64 at = length(line);
	long file = SYS(SYS_open, path, O_CLOEXEC);
	long got;

	while (*name)
		line[at++] = *name++;
	line[at++] = ' ';
	got = file < 0 ? -1 : SYS(SYS_read, file, line + at, sizeof(line) - at);
	SYS(SYS_close, file);
	if (got > 0)
		SYS(SYS_write, log, line, at + got);
}

/* A page that dpamt reads and writes too, from outside: it is named on the console. */
static void make_door(void)
{
	u64 entry = 0;
	long file;

	door = map_pages(PAGE, MAP_SHARED | MAP_POPULATE);
	SYS(SYS_mlock, door, PAGE);
	door[0] = 0;
	file = SYS(SYS_open, "/proc/self/pagemap", O_CLOEXEC);
	SYS(SYS_pread64, file, &entry, 8, (u64)door / PAGE * 8);
	SYS(SYS_close, file);
	SAY("dpamt: door &", (entry & ((1UL << 55) - 1)) * PAGE);
}

/* A text of 64 bytes for each TD, behind the words of the door. */
void tell_step(struct td *td, const char *step)
{
	char *at = (char *)door + 64 * (1 + td->number);
	u32 i = 0;

	while (step && step[i] && i < 63) {
		at[i] = step[i];
		i++;
	}
	at[i] = 0;
}

static void knock(u32 what)
{
	SAY("dpamt: phase %", what);
	door[3] = 0;
	for (struct td *td = tds; tds && td < tds + MAX_TDS; td++)
		door[3] |= td->failed;
	door[4] = free_pages();
	store(&door[0], what);
	while (load(&door[1]) != what)
		pause_ms(1);
}

static u32 failed_orders;

/* Times 100 ms until a call into KVM that does not return is sent a signal; 0: it is waited for. */
static u32 patience;

/* Whether the process of a TD is still there; tells when it is not. */
static int has_process(struct td *td)
{
	int status = 0;

	if (!td->process)
		return 0;
	if (SYS(SYS_wait4, td->process, &status, WNOHANG, 0) != td->process)
		return 1;
	if (load(&td->alive))
		SAY("dpamt: td % died status &", td->number, status);
	td->process = 0;
	store(&td->alive, 0);
	return 0;
}

/* Until the process of a TD has done what it was asked; it may die on the way, or need a signal. */
static void await_answer(struct td *td)
{
	u32 changes;

	for (u32 rounds = 1;; rounds++) {
		changes = load(&td->changes);
		if (load(&td->answered) == load(&td->asked) || !has_process(td))
			return;
		futex_wait(&td->changes, changes, 100);
		if (rounds == patience) {
			SAY("dpamt: td % stuck", td->number);
			SYS(SYS_kill, td->process, SIGUSR1);
		}
	}
}

static void build(struct td *td)
{
	long process;

	td->changes = td->stop = 0;
	td->vm = td->memory = 0;
	for (u32 i = 0; i < td->vcpus; i++) {
		struct vcpu *vcpu = &td->vcpu[i];

		vcpu->posted = vcpu->written = vcpu->taken = vcpu->state = 0;
		vcpu->error = vcpu->file = 0;
		vcpu->page = 0;
		vcpu->why = vcpu->detail = 0;
		vcpu->told = 0;
		for (u32 kind = 0; kind < EXIT_KINDS; kind++)
			vcpu->exits[kind] = 0;
	}
	td->asked = td->answered + 1;
	process = SYS(SYS_fork);
	if (!process)
		td_process(td);
	td->process = process;
	await_answer(td);
	if (!load(&td->alive)) {
		SYS(SYS_wait4, td->process, 0, 0, 0);
		td->process = 0;
		SAY("dpamt: td % not built", td->number);
	}
}

static void ask(struct td *td, u32 kind, u64 a, u64 b, u64 c)
{
	td->order = kind;
	td->args[0] = a;
	td->args[1] = b;
	td->args[2] = c;
	td->result = 0;
	store(&td->asked, td->asked + 1);
	futex_wake(&td->asked);
}

static void order(struct td *td, u32 kind, u64 a, u64 b, u64 c, u64 due)
{
	ask(td, kind, a, b, c);
	await_answer(td);
	if (td->result == -(long)due)
		return;
	failed_orders++;
	if (due)
		SAY("dpamt: td % order % wanted % got %", td->number, kind, due, -td->result);
	else
		SAY("dpamt: td % order % error %", td->number, kind, -td->result);
}

/* What each vCPU met, when its TD ends. */
static void tell_exits(struct td *td)
{
	for (u32 i = 0; i < td->vcpus; i++) {
		struct vcpu *vcpu = &td->vcpu[i];

		for (u32 kind = 0; kind < EXIT_KINDS; kind++)
			if (vcpu->exits[kind])
				SAY("dpamt: td % vcpu % exit % times %", td->number, i, kind,
				    vcpu->exits[kind]);
	}
}

static void finish(struct td *td, int by_signal)
{
	int status = 0;

	if (by_signal)
		SYS(SYS_kill, td->process, SIGKILL);
	else
		ask(td, ORDER_CLOSE, 0, 0, 0);
	SYS(SYS_wait4, td->process, &status, 0, 0);
	td->process = 0;
	store(&td->alive, 0);
	SAY(by_signal ? "dpamt: td % killed" : "dpamt: td % closed", td->number);
	tell_exits(td);
}

static void publish(void)
{
	for (struct td *td = tds; td < tds + MAX_TDS; td++) {
		if (!load(&td->alive))
			continue;
		for (u32 i = 0; i < td->vcpus; i++) {
			struct vcpu *vcpu = &td->vcpu[i];

			store(&vcpu->posted, vcpu->written);
			futex_wake(&vcpu->posted);
		}
	}
}

static int is_busy(struct td *td)
{
	for (u32 i = 0; i < td->vcpus; i++) {
		struct vcpu *vcpu = &td->vcpu[i];
		u32 state = load(&vcpu->state);

		if (state == RUNNING || (state == IDLE && load(&vcpu->taken) != load(&vcpu->posted)))
			return 1;
	}
	return 0;
}

/* A vCPU that ended says why; its TD goes on without it. */
static void tell_ended(struct td *td)
{
	for (u32 i = 0; i < td->vcpus; i++) {
		struct vcpu *vcpu = &td->vcpu[i];

		if (load(&vcpu->state) != ENDED || vcpu->told)
			continue;
		vcpu->told = 1;
		SAY("dpamt: td % vcpu % ended exit % error % detail &", td->number, i, vcpu->why,
		    -(long)vcpu->error, vcpu->detail);
	}
}

static void await_guests(void)
{
	for (struct td *td = tds; td < tds + MAX_TDS; td++) {
		for (u32 rounds = 1; load(&td->alive); rounds++) {
			u32 changes = load(&td->changes);

			if (!is_busy(td) || !has_process(td))
				break;
			futex_wait(&td->changes, changes, 100);
			if (rounds == patience) {
				SAY("dpamt: td % stuck", td->number);
				SYS(SYS_kill, td->process, SIGKILL);
			}
		}
		if (load(&td->alive))
			tell_ended(td);
	}
}

/* The script. */

static u64 number(char **at)
{
	u64 value = 0;

	while (**at == ' ')
		(*at)++;
	while (**at >= '0' && **at <= '9')
		value = value * 10 + *(*at)++ - '0';
	return value;
}

static int is(char **at, const char *word)
{
	char *here = *at;

	while (*word && *here == *word)
		here++, word++;
	if (*word || (*here != ' ' && *here != '\n'))
		return 0;
	*at = here;
	return 1;
}

static void take_words(struct td *td, char *at)
{
	struct vcpu *vcpu = &td->vcpu[number(&at)];

	while (*at == ' ') {
		while (vcpu->written - load(&vcpu->taken) >= MAX_WORDS) {
			SAY("dpamt: script: too many words");
			reboot();
		}
		vcpu->words[vcpu->written++ % MAX_WORDS] = number(&at);
	}
}

/* A command for one TD; it has to be alive. */
static void for_td(char *at, int what)
{
	struct td *td = &tds[number(&at)];

	if (what == 'b') {
		build(td);
		return;
	}
	if (!load(&td->alive) || !has_process(td)) {
		passed_over++;
		return;
	}
	if (what == 'w') {
		take_words(td, at);
	} else if (what == 'o') {
		u64 kind = number(&at), a = number(&at), b = number(&at), c = number(&at);

		order(td, kind, a, b, c, number(&at));
	} else {
		finish(td, what == 'k');
	}
}

static void do_line(char *at)
{
	if (is(&at, "td")) {
		struct td *td = &tds[number(&at)];

		td->number = td - tds;
		td->vcpus = number(&at);
		td->pages = number(&at);
		td->image = number(&at);
		td->tour = number(&at);
		td->tells = td->tour == 2;
		td->tour &= 1;
	} else if (is(&at, "build")) {
		for_td(at, 'b');
	} else if (is(&at, "words")) {
		for_td(at, 'w');
	} else if (is(&at, "order")) {
		for_td(at, 'o');
	} else if (is(&at, "close")) {
		for_td(at, 'c');
	} else if (is(&at, "kill")) {
		for_td(at, 'k');
	} else if (is(&at, "phase")) {
		knock(number(&at));
	} else if (is(&at, "failing")) {
		make_allocations_fail();
	} else if (is(&at, "fail")) {
		struct td *td = &tds[number(&at)];

		td->fail = number(&at);
		td->failed = 0;
	} else if (is(&at, "pause")) {
		pause_ms(number(&at));
	} else if (is(&at, "patience")) {
		patience = number(&at);
	} else if (is(&at, "scatter")) {
		scatter(number(&at));
	} else if (is(&at, "start")) {
		publish();
	} else if (is(&at, "go")) {
		publish();
		await_guests();
	}
}

static void read_script(void)
{
	u64 room = 64UL << 20, size = 0;
	long file = SYS(SYS_open, "/script", O_CLOEXEC), got;

	script = map_pages(room, MAP_PRIVATE | MAP_NORESERVE);
	while (size < room - 1 && (got = SYS(SYS_read, file, script + size, room - 1 - size)) > 0)
		size += got;
	SYS(SYS_close, file);
}

void main_of_all(void)
{
	char *line;

	SYS(SYS_mount, "dev", "/dev", "devtmpfs", 0, 0);
	log = SYS(SYS_open, "/dev/kmsg", 1 | O_CLOEXEC);
	if (log < 0)
		log = 1;
	SYS(SYS_mount, "proc", "/proc", "proc", 0, 0);
	SYS(SYS_mount, "sys", "/sys", "sysfs", 0, 0);
	make_door();
	load_module("/irqbypass.ko", "");
	load_module("/kvm.ko", "");
	load_module("/kvm-intel.ko", "tdx=1 nested=0");
	tell_section("kvm:.text", "/sys/module/kvm/sections/.text");
	tell_section(".text", "/sys/module/kvm_intel/sections/.text");
	tell_section(".noinstr.text", "/sys/module/kvm_intel/sections/.noinstr.text");
	tell_section(".init.text", "/sys/module/kvm_intel/sections/.init.text");
	tds = map_pages(sizeof(*tds) * MAX_TDS, MAP_SHARED | MAP_NORESERVE);
	read_script();
	SAY("dpamt: kvm loaded");
	for (line = script; *line && !load(&door[2]);) {
		do_line(line);
		while (*line && *line++ != '\n')
			;
	}
	SAY("dpamt: end passed % failed %", passed_over, failed_orders);
	reboot();
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tand $-16, %rsp\n\tcall main_of_all\n");
