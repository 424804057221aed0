/*
 * Interprets a list of memory calls and logs everything that a program can observe of their effects.
 *
 *     program batch CALLS LOG [CALLS LOG ...]
 *
 * runs every list in a process of its own: without address space randomization, with an empty environment, in a new
 * IPC namespace if the kernel permits one, and with the same descriptors. The logs of a native run and of a run under
 * Laconic must be equal. tests/faithful/calls.py writes the lists and documents their operations.
 *
 * The interpreter itself allocates nothing: no malloc, no stdio, no thread-local variables. All its memory is in .bss
 * and on the first 256 KiB of the stack, so only the listed calls change the address space. Faults are recovered by a
 * jump in the signal handler, not by siglongjmp, so that the kernel restores PKRU and the signal mask.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

typedef uint64_t u64;
typedef int64_t s64;

#define PAGE 4096UL
#define LOG 100
#define CALLS 101
#define PIPES 110 /* two descriptors per task */
#define FILES 200
#define PIDFD 215
#define SHARED_FILE 220
/* The timer's page; tests/faithful/compare.py leaves it out of the maps. */
#define TICK 0x680000000000UL
/* What the processes of a list share. */
#define SHARED ((volatile struct shared *)0x690000000000UL)

/* ---- System calls and probes, which touch nothing but registers and what they are to touch ---- */

static long kernel6(long number, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
    long result;
    register u64 r10 asm("r10") = d;
    register u64 r8 asm("r8") = e;
    register u64 r9 asm("r9") = f;
    asm volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                 : "rcx", "r11", "memory");
    return result;
}

#define kernel(number, a, b, c) kernel6(number, (u64)(a), (u64)(b), (u64)(c), 0, 0, 0)

int probe_load(u64 address, u64 *value);
int probe_store(u64 address, u64 value);
int probe_call(u64 address);
long start_task(u64 flags, void *stack_top, void (*run)(void *), void *argument, int *tid);
extern char probe_load_at[], probe_store_at[], probe_failed[];

asm(".text\n"
    "probe_load:      xor %eax, %eax\n"
    "probe_load_at:   mov (%rdi), %rdx\n"
    "                 mov %rdx, (%rsi)\n"
    "                 ret\n"
    "probe_store:     xor %eax, %eax\n"
    "probe_store_at:  mov %rsi, (%rdi)\n"
    "                 ret\n"
    "probe_failed:    mov $1, %eax\n"
    "                 ret\n"
    "probe_call:      xor %eax, %eax\n"
    "                 call *%rdi\n"
    "                 ret\n"
    "start_task:      sub $16, %rsi\n"
    "                 mov %rdx, (%rsi)\n"
    "                 mov %rcx, 8(%rsi)\n"
    "                 mov %r8, %rdx\n"
    "                 mov %r8, %r10\n"
    "                 xor %r8d, %r8d\n"
    "                 mov $56, %eax\n"
    "                 syscall\n"
    "                 test %rax, %rax\n"
    "                 jz 1f\n"
    "                 ret\n"
    "1:               xor %ebp, %ebp\n"
    "                 pop %rax\n"
    "                 pop %rdi\n"
    "                 call *%rax\n"
    "                 xor %edi, %edi\n"
    "                 mov $60, %eax\n"
    "                 syscall\n"
    "                 hlt\n");

/* ---- Tasks: the main flow, workers, and the tasks of blocks. A task is found by its stack ---- */

#define WORKERS 4
#define DEPTH 8
#define STACK 65536UL
#define ROOM (1 << 17)

struct task {
    struct {
        int signal, code, key;
        u64 address;
    } fault;
    u64 calling;
    int tid;
    volatile int turn; /* a worker's futex: 0 idle, 1 has work */
    int first, stop;   /* a worker's operations, or a block's */
    int suspends;      /* a block's process, whose parent waits in vfork */
    int buffered;
    size_t used;
    u64 page[PAGE / sizeof(u64)];
    char text[ROOM];
};

static char stacks[WORKERS + DEPTH][STACK] __attribute__((aligned(65536)));
static struct task tasks[1 + WORKERS + DEPTH];

static struct task *self(void)
{
    u64 here = (u64)__builtin_frame_address(0), base = (u64)stacks;
    if (here < base || here >= base + sizeof stacks)
        return &tasks[0];
    return &tasks[1 + (here - base) / STACK];
}

/* ---- The log ---- */

static void put(const char *text)
{
    struct task *task = self();
    size_t length = strlen(text);
    if (task->used + length > ROOM)
        return;
    memcpy(task->text + task->used, text, length);
    task->used += length;
}

static void put_hex(u64 value)
{
    char text[20];
    int at = 19;
    text[at] = 0;
    do
        text[--at] = "0123456789abcdef"[value & 15];
    while (value >>= 4);
    put(text + at);
}

static void put_number(s64 value)
{
    char text[24];
    int at = 23;
    u64 rest = value < 0 ? -(u64)value : (u64)value;
    text[at] = 0;
    do
        text[--at] = (char)('0' + rest % 10);
    while (rest /= 10);
    if (value < 0)
        text[--at] = '-';
    put(text + at);
}

static void put_result(long result)
{
    put(" ");
    if (result < 0 && result > -4096)
        put_number(result);
    else
        put_hex((u64)result);
}

static void flush(void)
{
    struct task *task = self();
    if (task->used)
        kernel(SYS_write, LOG, task->text, task->used);
    task->used = 0;
}

static void line_end(void)
{
    put("\n");
    if (!self()->buffered)
        flush();
}

/* ---- Signals ---- */

static volatile long ticks, handled[65];
static int timer_us;

static void on_fault(int number, siginfo_t *info, void *opaque)
{
    greg_t *registers = ((ucontext_t *)opaque)->uc_mcontext.gregs;
    struct task *task = self();
    u64 rip = (u64)registers[REG_RIP];
    task->fault.signal = number;
    task->fault.code = info->si_code;
    task->fault.address = (u64)info->si_addr;
    task->fault.key = number == SIGSEGV && info->si_code == SEGV_PKUERR ? (int)info->si_pkey : -1;
    if (rip == (u64)probe_load_at || rip == (u64)probe_store_at) {
        registers[REG_RIP] = (greg_t)probe_failed;
    } else if (task->calling && rip == task->calling) {
        registers[REG_RIP] = *(greg_t *)registers[REG_RSP];
        registers[REG_RSP] += 8;
        registers[REG_RAX] = 1;
    } else {
        put("stray signal ");
        put_number(number);
        put(" at ");
        put_hex(task->fault.address);
        put(" from ");
        put_hex(rip);
        put("\n");
        flush();
        kernel(SYS_exit_group, 99, 0, 0);
    }
}

/* What all processes of a list know, also after an exec. `runnable` processes can handle a signal, `suspended` ones
   wait in vfork. By signal: how many handlers have run, how many will have run when all have handled what was sent, and
   for how many suspended processes the signal is pending (the outermost ones). */
struct shared {
    long runnable, suspended, handlers[65], expected[65], pending[65];
};

static void on_count(int number)
{
    __atomic_add_fetch(&handled[number], 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&SHARED->handlers[number], 1, __ATOMIC_RELAXED);
}

/* Makes memory calls at any moment. The page is shared, so that no limit counts its protection. */
static void on_tick(int number)
{
    static volatile char busy;
    on_count(number);
    ticks++;
    /* A child in the same memory may be here too, and would take the access away that this one has just given. */
    if (__atomic_test_and_set(&busy, __ATOMIC_ACQUIRE))
        return;
    long first = kernel(SYS_mprotect, TICK, PAGE, 1);
    long second = kernel(SYS_mprotect, TICK, PAGE, 3);
    if (first || second) {
        put(" the timer's calls failed");
        put_result(first);
        put_result(second);
        put("\n");
        flush();
        kernel(SYS_exit_group, 99, 0, 0);
    }
    *(volatile long *)TICK = ticks;
    __atomic_clear(&busy, __ATOMIC_RELEASE);
}

static void handle(int number, void *handler, int flags)
{
    struct sigaction action = {.sa_flags = flags | SA_RESTART};
    action.sa_sigaction = (void (*)(int, siginfo_t *, void *))handler;
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
}

static void set_timer(int microseconds)
{
    struct itimerval value = {{0, microseconds}, {0, microseconds}};
    kernel(SYS_setitimer, ITIMER_REAL, &value, 0);
    timer_us = microseconds;
}

/* ---- The list of operations ---- */

struct name {
    const char *text;
    int number;
};

static const struct name calls[] = {
    {"mmap", SYS_mmap}, {"munmap", SYS_munmap}, {"mprotect", SYS_mprotect}, {"mremap", SYS_mremap}, {"brk", SYS_brk},
    {"madvise", SYS_madvise}, {"mlock", SYS_mlock}, {"munlock", SYS_munlock}, {"mlock2", SYS_mlock2},
    {"mlockall", SYS_mlockall}, {"munlockall", SYS_munlockall}, {"msync", SYS_msync}, {"mincore", SYS_mincore},
    {"remap_file_pages", SYS_remap_file_pages}, {"mseal", 462}, {"pkey_mprotect", SYS_pkey_mprotect},
    {"pkey_alloc", SYS_pkey_alloc}, {"pkey_free", SYS_pkey_free}, {"shmget", SYS_shmget}, {"shmat", SYS_shmat},
    {"shmdt", SYS_shmdt}, {"shmctl", SYS_shmctl}, {"prctl", SYS_prctl}, {"mbind", SYS_mbind},
    {"personality", SYS_personality}, {"setresuid", SYS_setresuid}, {"setresgid", SYS_setresgid},
    {"setgroups", SYS_setgroups}, {"ftruncate", SYS_ftruncate}, {"fallocate", SYS_fallocate},
    {"pread64", SYS_pread64}, {"pwrite64", SYS_pwrite64}, {"io_setup", SYS_io_setup},
    {"io_destroy", SYS_io_destroy}, {"map_shadow_stack", 453}, {NULL, 0},
};

/* What is no single system call, or logs more than its result. */
enum verb {
    PROCESS_MADVISE = 1000, LOAD, STORE, CODE, SUM, MAPS, LIMIT, TIMER, SPIN, GROUP, EXIT_ORDER, PKRU,
    FORK, VFORK, SPAWN, THREAD, JOIN, PAR, ENDPAR, EXEC,
};

static const struct name verbs[] = {
    {"process_madvise", PROCESS_MADVISE}, {"load", LOAD}, {"store", STORE}, {"code", CODE}, {"sum", SUM},
    {"maps", MAPS}, {"limit", LIMIT}, {"timer", TIMER}, {"spin", SPIN}, {"group", GROUP},
    {"exit_order", EXIT_ORDER}, {"pkru", PKRU}, {"fork", FORK}, {"vfork", VFORK}, {"spawn", SPAWN},
    {"thread", THREAD}, {"join", JOIN}, {"par", PAR}, {"endpar", ENDPAR}, {"exec", EXEC}, {NULL, 0},
};

#define OPERATIONS 8192
#define REGISTERS 16

struct operation {
    const char *name;
    int verb, worker, target, match, count;
    u64 value[6];
    char base[6]; /* 0, or r (a register), b (the first break), p (the scratch page), * (what is at the scratch page) */
    unsigned char index[6];
};

static struct operation list[OPERATIONS];
static int length;
static char source[1 << 20];
static u64 registers[REGISTERS];
static u64 first_break;
static u64 scratch[64];
static unsigned char vector[4096];
static int process_end, ipc_is_new, shares_memory, depth;

static int lookup(const struct name *names, const char *text)
{
    for (; names->text; names++)
        if (!strcmp(names->text, text))
            return names->number;
    return -1;
}

static void parse_value(struct operation *operation, char *word)
{
    int at = operation->count;
    char *rest = word;
    if (at == 6)
        return;
    if (*word == 'r' || *word == 'b' || *word == 'p' || *word == '*') {
        operation->base[at] = *word;
        rest = word + 1;
        if (*word == 'r')
            operation->index[at] = (unsigned char)strtoul(word + 1, &rest, 10) % REGISTERS;
        rest += *rest == '+';
    }
    operation->value[at] = strtoull(rest, NULL, 0);
    operation->count++;
}

static void parse(void)
{
    int open[64], opened = 0;
    char *end = source, *saved, *word;
    long got;
    kernel(SYS_lseek, CALLS, 0, SEEK_SET);
    while ((got = kernel(SYS_read, CALLS, end, source + sizeof source - 1 - end)) > 0)
        end += got;
    for (char *line = source; line < end && length < OPERATIONS; length++) {
        char *next = memchr(line, '\n', (size_t)(end - line));
        struct operation *operation = &list[length];
        if (next)
            *next = 0;
        operation->target = operation->worker = -1;
        operation->verb = -1;
        operation->match = -1;
        for (word = strtok_r(line, " ", &saved); word; word = strtok_r(NULL, " ", &saved)) {
            if (*word == '#')
                break;
            if (*word == '@')
                operation->worker = atoi(word + 1) % WORKERS;
            else if (*word == '=')
                operation->target = atoi(word + 1) % REGISTERS;
            else if (operation->name)
                parse_value(operation, word);
            else
                operation->name = word;
        }
        if (operation->name) {
            operation->verb = lookup(calls, operation->name);
            if (operation->verb < 0)
                operation->verb = lookup(verbs, operation->name);
        }
        line = next ? next + 1 : end;
    }
    for (int at = 0; at < length; at++) {
        int verb = list[at].verb;
        if (((verb >= FORK && verb <= THREAD) || verb == PAR) && opened < 64)
            open[opened++] = at;
        else if ((verb == JOIN || verb == ENDPAR) && opened)
            list[open[--opened]].match = at;
    }
    for (int at = 0; at < length; at++)
        if (list[at].match < 0)
            list[at].match = length;
}

static u64 argument(const struct operation *operation, int at)
{
    u64 value = operation->value[at];
    if (at >= operation->count)
        return 0;
    switch (operation->base[at]) {
    case 'r':
        return registers[operation->index[at]] + value;
    case 'b':
        return first_break + value;
    case 'p':
        return (u64)scratch + value;
    case '*':
        return *(u64 *)((char *)scratch + value);
    default:
        return value;
    }
}

/* ---- Observations ---- */

static void put_fault(void)
{
    struct task *task = self();
    put(" signal ");
    put_number(task->fault.signal);
    put(" code ");
    put_number(task->fault.code);
    put(" address ");
    put_hex(task->fault.address);
    if (task->fault.key >= 0) {
        put(" key ");
        put_number(task->fault.key);
    }
}

static u64 mix(u64 hash, u64 value)
{
    hash = (hash ^ value) * 0x9e3779b97f4a7c15UL;
    return hash ^ hash >> 29;
}

/* Reads one word of every page, up to the first fault. */
static void load(u64 start, u64 size)
{
    u64 hash = 0, value, at = start;
    int failed = 0;
    for (; at - start < size && !failed; at += PAGE) {
        failed = probe_load(at & ~7UL, &value);
        if (!failed)
            hash = mix(hash, value);
    }
    put_hex((at - start) / PAGE);
    put(" hash ");
    put_hex(hash);
    if (failed)
        put_fault();
}

/* Writes one word of every page, up to the first fault. */
static void store(u64 start, u64 size, u64 value)
{
    u64 at = start;
    int failed = 0;
    for (; at - start < size && !failed; at += PAGE)
        failed = probe_store(at & ~7UL, mix(value, at));
    put_hex((at - start) / PAGE);
    if (failed)
        put_fault();
}

/* Writes a return instruction and calls it, if it can be read back. */
static void code(u64 address)
{
    struct task *task = self();
    u64 value = 0;
    if (probe_store(address, 0xc3c3c3c3c3c3c3c3UL)) {
        put("store");
        put_fault();
    }
    if (probe_load(address, &value)) {
        put(" load");
        put_fault();
    }
    if ((value & 255) != 0xc3)
        return;
    task->calling = address;
    if (probe_call(address)) {
        put(" call");
        put_fault();
    } else
        put(" called");
    task->calling = 0;
}

/* The contents of every page, as a system call reads them: no signals. */
static void sum(u64 start, u64 size)
{
    struct task *task = self();
    int pipe = PIPES + 2 * (int)(task - tasks);
    for (u64 at = start; at - start < size; at += PAGE) {
        u64 hash = 0;
        long got = kernel(SYS_write, pipe + 1, at, PAGE);
        if (got > 0)
            kernel(SYS_read, pipe, task->page, got);
        for (long word = 0; word < got / 8; word++)
            if (task->page[word])
                hash = mix(hash + (u64)word, task->page[word]);
        put(at == start ? "" : " ");
        if (got < 0)
            put("-");
        else
            put_hex(hash & 0xffffffff);
    }
}

static char reading[1 << 16];

/* Reads a file line by line. A line longer than the buffer is not expected. */
static void for_each_line(const char *path, void (*use)(char *line))
{
    size_t kept = 0;
    long got, fd = kernel(SYS_open, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) {
        put(" unreadable");
        put_result(fd);
        put("\n");
        return;
    }
    while ((got = kernel(SYS_read, fd, reading + kept, sizeof reading - 1 - kept)) > 0) {
        char *line = reading, *end = reading + kept + got, *next;
        while ((next = memchr(line, '\n', (size_t)(end - line)))) {
            *next = 0;
            use(line);
            line = next + 1;
        }
        kept = (size_t)(end - line);
        memmove(reading, line, kept);
    }
    kernel(SYS_close, fd, 0, 0);
}

static void use_smaps(char *line)
{
    if ((*line >= '0' && *line <= '9') || (*line >= 'a' && *line <= 'f')) {
        put("map ");
        put(line);
    } else if (!strncmp(line, "VmFlags:", 8)) {
        put(" |");
        put(line + 8);
        put("\n");
        if (self()->used > ROOM / 2)
            flush();
    }
}

static u64 vm_size, vm_locked, vm_data;

static u64 kilobytes(const char *text)
{
    while (*text && (*text < '0' || *text > '9'))
        text++;
    return strtoull(text, NULL, 10) * 1024;
}

static void use_status(char *line)
{
    if (!strncmp(line, "VmSize:", 7))
        vm_size = kilobytes(line);
    else if (!strncmp(line, "VmLck:", 6))
        vm_locked = kilobytes(line);
    else if (!strncmp(line, "VmData:", 7))
        vm_data = kilobytes(line);
}

static void maps(void)
{
    vm_size = vm_locked = vm_data = 0;
    for_each_line("/proc/self/status", use_status);
    put("size ");
    put_hex(vm_size);
    put(" locked ");
    put_hex(vm_locked);
    put(" data ");
    put_hex(vm_data);
    put(" signals");
    /* A child in the same memory counts its parent's signals too, whenever the parent handles them. */
    for (int number = 1; number < 65 && !shares_memory; number++)
        if (handled[number] && number != SIGALRM) {
            put(" ");
            put_number(number);
            put(":");
            put_number(handled[number]);
        }
    put("\n");
    for_each_line("/proc/self/smaps", use_smaps);
    put("end");
}

/* Sets a soft limit: `more` bytes above what is used now, or as much as is permitted. */
static void limit(u64 which, u64 more)
{
    struct rlimit value;
    long result;
    vm_size = vm_locked = vm_data = 0;
    for_each_line("/proc/self/status", use_status);
    kernel6(SYS_prlimit64, 0, which, 0, (u64)&value, 0, 0);
    if (more == ~0UL)
        value.rlim_cur = value.rlim_max;
    else
        value.rlim_cur = more + (which == RLIMIT_AS ? vm_size : which == RLIMIT_DATA ? vm_data : vm_locked);
    if (value.rlim_cur > value.rlim_max)
        value.rlim_cur = value.rlim_max;
    result = kernel6(SYS_prlimit64, 0, which, (u64)&value, 0, 0, 0);
    put_hex(value.rlim_cur);
    put_result(result);
}

static void wait_a_moment(void)
{
    struct timespec time = {0, 20000};
    kernel(SYS_nanosleep, &time, 0, 0);
}

/* Lets the timer expire twice. */
static void spin(void)
{
    long until = ticks + 2;
    for (int tries = 0; timer_us && ticks < until && tries < 2000; tries++)
        wait_a_moment();
}

/* A pidfd becomes readable when the process can be waited for, and not before. */
static void exit_order(void)
{
    int status = 0;
    long early = 0;
    for (int tries = 0; tries < 8; tries++) {
        long pid = kernel(SYS_fork, 0, 0, 0), fd;
        struct pollfd ready = {.events = POLLIN};
        if (!pid)
            kernel(SYS_exit_group, 0, 0, 0);
        fd = kernel(434, pid, 0, 0);
        ready.fd = (int)fd;
        while (kernel(SYS_poll, &ready, 1, -1) == -EINTR)
            ;
        if (kernel6(SYS_wait4, (u64)pid, (u64)&status, WNOHANG, 0, 0, 0) != pid) {
            early++;
            while (kernel6(SYS_wait4, (u64)pid, (u64)&status, 0, 0, 0, 0) == -EINTR)
                ;
        }
        kernel(SYS_close, fd, 0, 0);
    }
    put(early ? " too early" : " in order");
}

static void set_pkru(u64 value)
{
    int works = kernel(SYS_pkey_alloc, 0, 0, 0) >= 0;
    if (works) {
        /* The key just allocated stays allocated in no process but this one; the next pkey_alloc has another. */
        asm volatile("wrpkru" : : "a"((unsigned)value & ~3U), "c"(0), "d"(0));
    }
    put(works ? " set" : " none");
}

/* ---- Processes and threads ---- */

static void run(int at, int stop);

static void renew_pidfd(void)
{
    long fd = kernel(434, kernel(SYS_getpid, 0, 0, 0), 0, 0);
    if (fd >= 0) {
        kernel(SYS_dup2, fd, PIDFD, 0);
        kernel(SYS_close, fd, 0, 0);
    }
}

static void futex_wait(volatile int *word, int value)
{
    while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == value)
        kernel6(SYS_futex, (u64)word, FUTEX_WAIT, (u64)value, 0, 0, 0);
}

static void futex_set(volatile int *word, int value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
    kernel6(SYS_futex, (u64)word, FUTEX_WAKE, 64, 0, 0, 0);
}

static void perform(int at);

static void worker_loop(void *opaque)
{
    struct task *task = opaque;
    for (;;) {
        futex_wait(&task->turn, 0);
        for (int at = task->first; at < task->stop; at++)
            if (list[at].worker == (int)(task - tasks) - 1)
                perform(at);
        futex_set(&task->turn, 0);
    }
}

#define THREAD_FLAGS \
    (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_PARENT_SETTID \
     | CLONE_CHILD_CLEARTID)

static long start_thread(int stack, void (*loop)(void *))
{
    struct task *task = &tasks[1 + stack];
    u64 blocked = 1UL << (SIGALRM - 1), before = 0;
    long result;
    /* Only the main thread gets the timer's signals: its handler must not run in two threads at the same time. */
    kernel6(SYS_rt_sigprocmask, SIG_BLOCK, (u64)&blocked, (u64)&before, 8, 0, 0);
    result = start_task(THREAD_FLAGS, stacks[stack] + STACK, loop, task, &task->tid);
    kernel6(SYS_rt_sigprocmask, SIG_SETMASK, (u64)&before, 0, 8, 0, 0);
    return result;
}

static int has_worker(int number)
{
    return tasks[1 + number].tid || start_thread(number, worker_loop) > 0;
}

static void work(int number, int first, int stop, int buffered)
{
    struct task *task = &tasks[1 + number];
    task->first = first;
    task->stop = stop;
    task->buffered = buffered;
    futex_set(&task->turn, 1);
}

static void in_parallel(int first, int stop)
{
    int used[WORKERS] = {0};
    for (int at = first; at < stop; at++)
        if (list[at].worker >= 0 && has_worker(list[at].worker))
            used[list[at].worker] = 1;
    for (int number = 0; number < WORKERS; number++)
        if (used[number])
            work(number, first, stop, 1);
    for (int number = 0; number < WORKERS; number++)
        if (used[number])
            futex_wait(&tasks[1 + number].turn, 1);
    for (int number = 0; number < WORKERS; number++) {
        struct task *task = &tasks[1 + number];
        if (!used[number])
            continue;
        if (task->used)
            kernel(SYS_write, LOG, task->text, task->used);
        task->used = 0;
        task->buffered = 0;
    }
}

static void forget_workers(void)
{
    for (int number = 0; number < WORKERS; number++)
        tasks[1 + number].tid = tasks[1 + number].turn = 0;
    timer_us = 0;
}

static void block_process(void *opaque)
{
    struct task *task = opaque;
    renew_pidfd();
    run(task->first, task->stop);
    kernel(SYS_exit_group, 0, 0, 0);
}

static void block_thread(void *opaque)
{
    struct task *task = opaque;
    run(task->first, task->stop);
}

static void put_status(long pid)
{
    int status = 0;
    while (kernel6(SYS_wait4, (u64)pid, (u64)&status, 0, 0, 0, 0) == -EINTR)
        ;
    put(" status ");
    put_hex((u64)status);
}

/* The innermost process that waits in vfork goes on, and handles what is pending. */
static void end_suspension(void)
{
    SHARED->suspended--;
    for (int number = 1; number < 65; number++)
        if (SHARED->pending[number] > SHARED->suspended)
            SHARED->pending[number] = SHARED->suspended;
}

static int is_handled(int number)
{
    return SHARED->handlers[number] >= SHARED->expected[number] - SHARED->pending[number];
}

static void await_handlers(int number)
{
    for (int tries = 0; !is_handled(number) && tries < 5000; tries++)
        wait_a_moment();
}

/* Runs the operations from `first` to `stop` in a new process or thread, and waits for its end. */
static void block(int verb, int first, int stop)
{
    struct task *task;
    int outer_end = process_end, outer_shares = shares_memory;
    long result;
    if (depth == DEPTH) {
        put(" too deep");
        return;
    }
    flush();
    task = &tasks[1 + WORKERS + depth];
    task->first = first;
    task->stop = stop;
    task->used = 0;
    task->tid = 0;
    depth++;
    task->suspends = verb == VFORK;
    if (verb == VFORK)
        SHARED->suspended++;
    else if (verb != THREAD)
        SHARED->runnable++;
    switch (verb) {
    case FORK:
        result = kernel(SYS_fork, 0, 0, 0);
        if (!result) {
            forget_workers();
            /* How many of its signals the parent of the memory had handled by then is a matter of time. */
            for (int number = 1; number < 65 && shares_memory; number++)
                handled[number] = 0;
            shares_memory = 0;
            process_end = stop;
            self()->used = 0;
            self()->suspends = 0;
            renew_pidfd();
            run(first, stop);
            kernel(SYS_exit_group, 0, 0, 0);
        }
        break;
    case THREAD:
        result = start_thread(WORKERS + depth - 1, block_thread);
        if (result > 0)
            futex_wait(&task->tid, (int)result);
        break;
    default:
        shares_memory = 1;
        process_end = stop;
        result = start_task(CLONE_VM | SIGCHLD | (verb == VFORK ? CLONE_VFORK : 0),
                            stacks[WORKERS + depth - 1] + STACK, block_process, task, &task->tid);
    }
    if (task->suspends)
        end_suspension();
    /* What was pending is handled before this process goes on, unless a worker took it: a worker's handler runs when
       that thread is next scheduled, which for a traced one may be late. */
    if (verb == VFORK)
        for (int number = 1; number < 65; number++)
            await_handlers(number);
    /* What a child in the same memory logs comes before this line, but only its end says that it is done. */
    if (result > 0 && verb != THREAD)
        put_status(result);
    else if (result < 0)
        put_result(result);
    /* A child of vfork that executed a program was counted beside its parent from then on. */
    if (verb == VFORK ? !task->suspends : verb != THREAD)
        SHARED->runnable--;
    process_end = outer_end;
    shares_memory = outer_shares;
    depth--;
}

static void hex8(char *text, unsigned value)
{
    for (int at = 7; at >= 0; at--, value >>= 4)
        text[at] = "0123456789abcdef"[value & 15];
    text[8] = 0;
}

static void execute_self(int first, int stop)
{
    static char from[9], to[9], more[9];
    char *arguments[] = {"program", "run", from, to, more, NULL};
    char *environment[] = {NULL};
    set_timer(0);
    hex8(from, (unsigned)first);
    hex8(to, (unsigned)stop);
    hex8(more, (unsigned)ipc_is_new);
    flush();
    int suspends = self()->suspends;
    if (suspends) {
        self()->suspends = 0;
        SHARED->runnable++;
        end_suspension();
    }
    put_result(kernel(SYS_execve, "/proc/self/exe", arguments, environment));
    if (suspends) {
        self()->suspends = 1;
        SHARED->runnable--;
        SHARED->suspended++;
    }
}

/* ---- Operations ---- */

static void process_madvise(const struct operation *operation)
{
    struct iovec vectors[2] = {
        {(void *)argument(operation, 2), argument(operation, 3)},
        {(void *)argument(operation, 4), argument(operation, 5)},
    };
    put_result(kernel6(440, PIDFD, (u64)vectors, operation->count > 4 ? 2 : 1, argument(operation, 0),
                       argument(operation, 1), 0));
}

/* Sends a signal to all processes, and waits until each has handled it, unless it waits in vfork: the same signal
   again, sent to one that has not handled this one, would be dropped. */
static void group(int number)
{
    long before = handled[number], least;
    await_handlers(number);
    /* A timer's signals are handled too. */
    least = SHARED->handlers[number] + SHARED->pending[number];
    if (SHARED->expected[number] < least)
        SHARED->expected[number] = least;
    SHARED->expected[number] += SHARED->runnable + SHARED->suspended - SHARED->pending[number];
    SHARED->pending[number] = SHARED->suspended;
    put_result(kernel(SYS_kill, 0, number, 0));
    for (int tries = 0; (handled[number] == before || !is_handled(number)) && tries < 5000; tries++)
        wait_a_moment();
    put(handled[number] == before ? " lost" : " handled");
}

static void make_call(const struct operation *operation)
{
    u64 value[6];
    long result;
    for (int at = 0; at < 6; at++)
        value[at] = argument(operation, at);
    if (operation->verb == SYS_shmget && !ipc_is_new) {
        put(" no namespace");
        return;
    }
    if (operation->verb == SYS_mincore)
        value[2] = (u64)vector;
    result = kernel6(operation->verb, value[0], value[1], value[2], value[3], value[4], value[5]);
    put_result(result);
    if (operation->target >= 0)
        registers[operation->target] = (u64)result;
    if (operation->verb == SYS_mincore && !result) {
        put(" ");
        for (u64 at = 0; at < (value[1] + PAGE - 1) / PAGE && at < sizeof vector; at++)
            put(vector[at] & 1 ? "1" : "0");
    }
}

static void perform(int at)
{
    const struct operation *operation = &list[at];
    u64 first = argument(operation, 0), second = argument(operation, 1), third = argument(operation, 2);
    put_number(at);
    put(" ");
    put(operation->name);
    put(" ");
    switch (operation->verb) {
    case PROCESS_MADVISE:
        process_madvise(operation);
        break;
    case LOAD:
        load(first, second);
        break;
    case STORE:
        store(first, second, third);
        break;
    case CODE:
        code(first);
        break;
    case SUM:
        sum(first, second);
        break;
    case MAPS:
        maps();
        break;
    case LIMIT:
        limit(first, second);
        break;
    case TIMER:
        set_timer((int)first);
        break;
    case SPIN:
        spin();
        break;
    case GROUP:
        group((int)first);
        break;
    case EXIT_ORDER:
        exit_order();
        break;
    case PKRU:
        set_pkru(first);
        break;
    default:
        make_call(operation);
    }
    line_end();
}

static void run(int at, int stop)
{
    while (at < stop) {
        const struct operation *operation = &list[at];
        int match = operation->match < stop ? operation->match : stop;
        switch (operation->verb) {
        case -1:
        case JOIN:
        case ENDPAR:
            at++;
            break;
        case FORK:
        case VFORK:
        case SPAWN:
        case THREAD:
            block(operation->verb, at + 1, match);
            put(" end of ");
            put_number(at);
            line_end();
            at = match + 1;
            break;
        case PAR:
            if (shares_memory)
                at++;
            else {
                in_parallel(at + 1, match);
                at = match + 1;
            }
            break;
        case EXEC:
            execute_self(at + 1, process_end);
            put(" exec failed\n");
            at++;
            break;
        default:
            if (operation->worker >= 0 && !shares_memory && has_worker(operation->worker)) {
                work(operation->worker, at, at + 1, 0);
                futex_wait(&tasks[1 + operation->worker].turn, 1);
            } else
                perform(at);
            at++;
        }
    }
}

/* ---- Start ---- */

static void touch_stack(void)
{
    volatile char room[256 * 1024];
    for (size_t at = 0; at < sizeof room; at += PAGE)
        room[at] = 1;
}

static int run_list(char **words)
{
    process_end = (int)strtoul(words[1], NULL, 16);
    ipc_is_new = (int)strtoul(words[2], NULL, 16);
    touch_stack();
    handle(SIGSEGV, on_fault, SA_SIGINFO | SA_NODEFER);
    handle(SIGBUS, on_fault, SA_SIGINFO | SA_NODEFER);
    handle(SIGALRM, on_tick, 0);
    handle(SIGUSR1, on_count, 0);
    handle(SIGTERM, on_count, 0);
    handle(SIGWINCH, on_count, 0);
    handle(SIGPOLL, on_count, 0);
    handle(SIGRTMIN, on_count, 0);
    kernel6(SYS_mmap, TICK, PAGE, 3, 0x100021, ~0UL, 0);
    kernel6(SYS_mmap, (u64)SHARED, PAGE, 3, 0x100001, SHARED_FILE, 0);
    if (!SHARED->runnable)
        SHARED->runnable = 1;
    first_break = (u64)kernel(SYS_brk, 0, 0, 0);
    scratch[0] = 1;
    strcpy((char *)&scratch[8], "heap");
    strcpy((char *)&scratch[16], "bad[name");
    renew_pidfd();
    parse();
    if (process_end > length)
        process_end = length;
    run((int)strtoul(words[0], NULL, 16), process_end);
    return 0;
}

static void keep(int fd, int number)
{
    if (fd >= 0) {
        dup2(fd, number);
        close(fd);
    }
}

static int memory_file(unsigned flags, int pages)
{
    int fd = (int)syscall(SYS_memfd_create, "memory", flags);
    if (fd >= 0 && ftruncate(fd, pages * (off_t)PAGE))
        abort();
    return fd;
}

static void fill(int fd, int pages, int tail)
{
    static char contents[PAGE];
    for (int at = 0; at <= pages; at++) {
        memset(contents, 0x11 * (at + 1), sizeof contents);
        if (write(fd, contents, at < pages ? PAGE : (size_t)tail) < 0)
            abort();
    }
}

static void sealed(int number, unsigned seals)
{
    int fd = memory_file(2, 4);
    if (fcntl(fd, F_ADD_SEALS, seals))
        abort();
    keep(fd, number);
}

/* The descriptors of calls.py, in this order. */
static void open_files(void)
{
    int pipes[2], fd;
    unlink("file");
    fd = open("file", O_RDWR | O_CREAT, 0666);
    fill(fd, 6, 3);
    fchmod(fd, 0666);
    keep(fd, FILES);
    keep(open("file", O_RDONLY), FILES + 1);
    keep(open("file", O_WRONLY), FILES + 2);
    keep(open("file", O_PATH), FILES + 3);
    fd = memory_file(0, 0);
    fill(fd, 8, 5);
    keep(fd, FILES + 4);
    sealed(FILES + 5, F_SEAL_WRITE);
    sealed(FILES + 6, 0x10 /* F_SEAL_FUTURE_WRITE */);
    sealed(FILES + 7, F_SEAL_SHRINK | F_SEAL_GROW);
    fd = (int)syscall(447 /* memfd_secret */, 0);
    if (fd >= 0 && ftruncate(fd, 4 * PAGE))
        abort();
    keep(fd, FILES + 8);
    keep(open("/dev/zero", O_RDWR), FILES + 9);
    keep(memory_file(4 /* MFD_HUGETLB */, 0), FILES + 10);
    keep(open(".", O_RDONLY | O_DIRECTORY), FILES + 11);
    if (pipe(pipes))
        abort();
    keep(pipes[0], FILES + 12);
    keep(pipes[1], 219);
    keep(open("/dev/null", O_RDWR), FILES + 13);
    fd = open("/dev/shm", O_RDWR | O_TMPFILE, 0600);
    if (fd >= 0)
        fill(fd, 6, 7);
    keep(fd, FILES + 14);
    keep(open("file", O_RDWR), FILES + 16);
    keep(open("/dev/zero", O_RDONLY), FILES + 17);
    keep(open("/proc/self/status", O_RDONLY), FILES + 18);
    keep(memory_file(0, 1), SHARED_FILE);
    for (int task = 0; task < 1 + WORKERS + DEPTH; task++) {
        if (pipe(pipes))
            abort();
        keep(pipes[0], PIPES + 2 * task);
        keep(pipes[1], PIPES + 2 * task + 1);
    }
}

static void start_list(const char *calls_path, const char *log_path)
{
    static char flag[9];
    char *words[] = {"program", "run", "00000000", "00ffffff", flag, NULL};
    char *environment[] = {NULL};
    umask(0);
    keep(open(calls_path, O_RDONLY), CALLS);
    keep(open(log_path, O_WRONLY | O_APPEND | O_CREAT | O_TRUNC, 0666), LOG);
    hex8(flag, unshare(CLONE_NEWIPC) == 0);
    open_files();
    /* Descriptors of whoever started this program must not differ between the runs. */
    for (int fd = 3; fd < 100; fd++)
        close(fd);
    execve("/proc/self/exe", words, environment);
    _exit(98);
}

static void ignore(int number)
{
    (void)number;
}

static int run_batch(int count, char **words)
{
    static const int signals[] = {SIGALRM, SIGUSR1, SIGTERM, SIGWINCH, SIGPOLL};
    personality(ADDR_NO_RANDOMIZE);
    for (size_t at = 0; at < sizeof signals / sizeof *signals; at++)
        handle(signals[at], ignore, 0);
    handle(SIGRTMIN, ignore, 0);
    for (int at = 0; at + 1 < count; at += 2) {
        int status = 0, fd;
        pid_t pid = fork();
        if (!pid)
            start_list(words[at], words[at + 1]);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        fd = open(words[at + 1], O_WRONLY | O_APPEND);
        dup2(fd, LOG);
        close(fd);
        put("ended ");
        put_hex((u64)status);
        line_end();
        close(LOG);
    }
    return 0;
}

int main(int count, char **words)
{
    if (count == 5 && !strcmp(words[1], "run"))
        return run_list(words + 2);
    if (count > 3 && !strcmp(words[1], "batch"))
        return run_batch(count - 2, words + 2);
    return 97;
}
