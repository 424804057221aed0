/* All registers across memory calls of each kind: what a `syscall` instruction keeps is kept, bit for bit. */
#include "lab.h"
#include <stddef.h>

enum { RBX, RBP, R12, R13, R14, R15, RDI, RSI, RDX, R10, R8, R9, KEPT, RCX = KEPT, R11, RAX, RSP, RIP, FLAGS, MXCSR, WORDS };

static const char *const names[] = {"rbx", "rbp", "r12", "r13", "r14", "r15", "rdi", "rsi",   "rdx",  "r10",
                                    "r8",  "r9",  "rcx", "r11", "rax", "rsp", "rip", "rflags", "mxcsr"};

/* in and out: the words above, then xmm0-15, then the x87 control word. */
struct state {
    uint64_t words[WORDS + 1];
    uint8_t xmm[16][16];
    uint64_t control;
} __attribute__((aligned(16)));

struct state in, out;

/* Loads all of `in`, makes the call, keeps all in `out`. rcx, r11 before the call are rubbish on purpose. */
void probe(void);
__asm__(
    ".globl probe\n"
    "probe:\n"
    "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "lea in(%rip), %rax\n"
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "movaps 160+16*\\n(%rax), %xmm\\n\n"
    ".endr\n"
    "ldmxcsr 144(%rax)\n"
    "fldcw 416(%rax)\n"
    "mov 0(%rax), %rbx; mov 8(%rax), %rbp; mov 16(%rax), %r12; mov 24(%rax), %r13\n"
    "mov 32(%rax), %r14; mov 40(%rax), %r15; mov 48(%rax), %rdi; mov 56(%rax), %rsi\n"
    "mov 64(%rax), %rdx; mov 72(%rax), %r10; mov 80(%rax), %r8; mov 88(%rax), %r9\n"
    "mov $0x1111111111111111, %rcx; mov $0x2222222222222222, %r11\n"
    "mov %rsp, 120(%rax)\n"
    "push 136(%rax)\n"
    "mov 112(%rax), %rax\n"
    "popfq\n"
    "syscall\n"
    ".globl after_the_call\n"
    "after_the_call:\n"
    "mov %rax, 112+out(%rip)\n"
    "mov %rsp, 120+out(%rip)\n"
    "pushfq; pop 136+out(%rip)\n"
    "cld\n"
    "lea out(%rip), %rax\n"
    "mov %rbx, 0(%rax); mov %rbp, 8(%rax); mov %r12, 16(%rax); mov %r13, 24(%rax)\n"
    "mov %r14, 32(%rax); mov %r15, 40(%rax); mov %rdi, 48(%rax); mov %rsi, 56(%rax)\n"
    "mov %rdx, 64(%rax); mov %r10, 72(%rax); mov %r8, 80(%rax); mov %r9, 88(%rax)\n"
    "mov %rcx, 96(%rax); mov %r11, 104(%rax)\n"
    "stmxcsr 144(%rax)\n"
    "fnstcw 416(%rax)\n"
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "movaps %xmm\\n, 160+16*\\n(%rax)\n"
    ".endr\n"
    "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "ret\n");
extern char after_the_call[];

_Static_assert(offsetof(struct state, xmm) == 160 && offsetof(struct state, control) == 416, "as the code above says");

static int wrong;

static void differs(const char *call, const char *name, uint64_t is, uint64_t was)
{
    printf("WRONG: %s: %s is %#lx, was %#lx\n", call, name, is, was);
    wrong = 1;
}

/* Each call twice as many ways as there are flags to keep: none; all of CF, PF, AF, ZF, SF, DF, OF. */
static long call(const char *name, long nr, long a, long b, long c, long d, long e, long f, int flags)
{
    long arguments[] = {a, b, c, d, e, f};
    for (int i = 0; i < RDI; i++)
        in.words[i] = 0xA5A5000012340000UL + (uint64_t)i;
    for (int i = 0; i < 6; i++)
        in.words[RDI + i] = (uint64_t)arguments[i];
    in.words[RAX] = (uint64_t)nr;
    in.words[FLAGS] = flags ? 0xED7 : 0x202;
    in.words[MXCSR] = flags ? 0x7F80 : 0x1F80; /* the rounding mode */
    in.control = flags ? 0xF7F : 0x37F;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++)
            in.xmm[i][j] = (uint8_t)(i * 16 + j + 1);
    memset(&out, 0x77, sizeof out);
    uint32_t mxcsr = 0x1F80;
    uint16_t control = 0x37F;
    probe();
    __asm__ volatile("ldmxcsr %0; fldcw %1" : : "m"(mxcsr), "m"(control));
    for (int i = 0; i < KEPT; i++)
        if (out.words[i] != in.words[i])
            differs(name, names[i], out.words[i], in.words[i]);
    if (out.words[FLAGS] != in.words[FLAGS])
        differs(name, "rflags", out.words[FLAGS], in.words[FLAGS]);
    if (out.words[R11] != in.words[FLAGS])
        differs(name, "r11", out.words[R11], in.words[FLAGS]);
    if (out.words[RCX] != (uint64_t)after_the_call)
        differs(name, "rcx", out.words[RCX], (uint64_t)after_the_call);
    if (out.words[RSP] != in.words[RSP])
        differs(name, "rsp", out.words[RSP], in.words[RSP]);
    if ((uint32_t)out.words[MXCSR] != (uint32_t)in.words[MXCSR])
        differs(name, "mxcsr", (uint32_t)out.words[MXCSR], (uint32_t)in.words[MXCSR]);
    if ((uint16_t)out.control != (uint16_t)in.control)
        differs(name, "the x87 control word", (uint16_t)out.control, (uint16_t)in.control);
    if (memcmp(out.xmm, in.xmm, sizeof in.xmm))
        differs(name, "one of xmm0-15", 0, 0);
    long result = (long)out.words[RAX];
    printf("%s: %ld\n", name, result < 0 && result > -4096 ? result : result > 0);
    return result;
}

int main(void)
{
    static char text[8192];
    setvbuf(stdout, text, _IOFBF, sizeof text);
    for (int flags = 0; flags < 2; flags++) {
        long space = raw(SYS_mmap, 0, 64 * PAGE, PROT_NONE, ANON, -1, 0);
        if (space < 0)
            return 99;
        long at = space + 8 * PAGE, rubbish = 0x0123456789ABCDEFL;
        call("said as it is", SYS_mprotect, at, 16 * PAGE, RW, rubbish, rubbish, rubbish, flags);
        call("elided", SYS_mprotect, at, 16 * PAGE, RW, rubbish, rubbish, rubbish, flags);
        call("elided brk", SYS_brk, 0, rubbish, rubbish, rubbish, rubbish, rubbish, flags);
        call("narrowed from below", SYS_mprotect, at - PAGE, 17 * PAGE, RW, rubbish, rubbish, rubbish, flags);
        call("narrowed from above", SYS_mprotect, at, 17 * PAGE, RW, rubbish, rubbish, rubbish, flags);
        for (long page = 0; page < 8; page += 2)
            raw(SYS_mprotect, at + page * PAGE, PAGE, PROT_READ, 0, 0, 0);
        call("of several host calls", SYS_mprotect, at, 8 * PAGE, PROT_READ, rubbish, rubbish, rubbish, flags);
        call("mmap where bookkeeping says", SYS_mmap, 0, 3 * PAGE, RW, ANON, -1, 0, flags);
        call("mmap at a hint", SYS_mmap, out.words[RAX] & ~0xFFFFFFFL, 3 * PAGE, RW, ANON, -1, 0, flags);
        call("mmap at a hint that is taken", SYS_mmap, space, 3 * PAGE, RW, ANON, -1, 0, flags);
        call("mmap within 2 GiB", SYS_mmap, 0, 3 * PAGE, RW, ANON | MAP_32BIT, -1, 0, flags);
        call("mmap fixed over several", SYS_mmap, space, 20 * PAGE, RW, ANON | MAP_FIXED, -1, 0, flags);
        call("mremap that moves", SYS_mremap, at, 4 * PAGE, 40 * PAGE, 1, rubbish, rubbish, flags);
        call("munmap over holes", SYS_munmap, space, 64 * PAGE, rubbish, rubbish, rubbish, rubbish, flags);
        call("munmap of nothing", SYS_munmap, space, 64 * PAGE, rubbish, rubbish, rubbish, rubbish, flags);
        call("failing at once", SYS_munmap, space + 1, PAGE, rubbish, rubbish, rubbish, rubbish, flags);
        call("failing in bookkeeping", SYS_mprotect, space, PAGE, RW, rubbish, rubbish, rubbish, flags);
        call("failing half way", SYS_mprotect, (long)text & -PAGE, 1L << 46, RW, rubbish, rubbish, rubbish, flags);
        call("failing at the host", SYS_mmap, 0, 1L << 46, RW, ANON, -1, 0, flags);
        call("mmap of no file", SYS_mmap, 0, PAGE, RW, MAP_PRIVATE, -1, 0, flags);
        call("madvise", SYS_madvise, (long)text & -PAGE, PAGE, 3, rubbish, rubbish, rubbish, flags);
        call("brk up", SYS_brk, raw(SYS_brk, 0, 0, 0, 0, 0, 0) + 3 * PAGE, rubbish, rubbish, rubbish, rubbish, rubbish,
             flags);
        call("no memory call", SYS_getppid, rubbish, rubbish, rubbish, rubbish, rubbish, rubbish, flags);
    }
    fflush(stdout);
    return wrong;
}
