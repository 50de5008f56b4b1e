# What a CPU does in place of a SEAMCALL: hand its registers over, wait, take the answer.
#
# The CPU number comes from the limit of the CPUNODE segment (Linux arch/x86/include/asm/segment.h);
# its slot is 256 bytes of guest memory.  Interrupts are off while it waits, as in SEAM mode.
# SITE, SLOTS, TAKEN (where the jc after SEAMCALL goes) and GO_ON are filled in for each call site;
# the test assembles this file and holds it against the bytes in stub.py.

	.globl	stub
stub:
	pushfq
	cli
	pushq	%rbx
	pushq	%rax
	movl	$0x7b, %ebx
	lsll	%ebx, %ebx
	andl	$0xfff, %ebx
	shll	$8, %ebx
	movabsq	$SLOTS, %rax
	addq	%rax, %rbx
	popq	%rax
	movq	%rax, 0x10(%rbx)
	movq	%rcx, 0x18(%rbx)
	movq	%rdx, 0x20(%rbx)
	movq	%r8, 0x28(%rbx)
	movq	%r9, 0x30(%rbx)
	movq	%r10, 0x38(%rbx)
	movq	%r11, 0x40(%rbx)
	movq	%r12, 0x48(%rbx)
	movq	%r13, 0x50(%rbx)
	movq	%r14, 0x58(%rbx)
	movq	%r15, 0x60(%rbx)
	movq	%rdi, 0x68(%rbx)
	movq	%rsi, 0x70(%rbx)
	movq	(%rsp), %rax
	movq	%rax, 0x78(%rbx)
	leaq	16(%rsp), %rax
	movq	%rax, 0x80(%rbx)
	movq	%rbp, 0x88(%rbx)
	movl	$SITE, 8(%rbx)
	movl	$1, (%rbx)
	outb	%al, $0xe9
1:	pause
	cmpl	$2, (%rbx)
	jne	1b
	movq	0x90(%rbx), %rax
	andq	$-2, 8(%rsp)
	orq	%rax, 8(%rsp)
	movq	0x10(%rbx), %rax
	movq	0x18(%rbx), %rcx
	movq	0x20(%rbx), %rdx
	movq	0x28(%rbx), %r8
	movq	0x30(%rbx), %r9
	movq	0x38(%rbx), %r10
	movq	0x40(%rbx), %r11
	movq	0x48(%rbx), %r12
	movq	0x50(%rbx), %r13
	movq	0x58(%rbx), %r14
	movq	0x60(%rbx), %r15
	movq	0x68(%rbx), %rdi
	movq	0x70(%rbx), %rsi
	movl	$0, (%rbx)
	movq	0x78(%rbx), %rbx
	leaq	8(%rsp), %rsp
	popfq
	jc	TAKEN
	jmp	GO_ON
