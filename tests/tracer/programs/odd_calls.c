/* The memory calls that few programs make. `odd_calls NAME`; what this kernel lacks prints "skip". */
#include "lab.h"
#include <linux/aio_abi.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/prctl.h>
#include <sys/shm.h>

#define NEED(call, what)                                                                                               \
    if ((call) == -1) {                                                                                                \
        printf("skip: %s: %s\n", what, strerror(errno));                                                               \
        return;                                                                                                        \
    }

static void must(int failed, const char *what)
{
    if (failed)
        fail(what);
}

static long deep(int left)
{
    volatile char frame[8192];
    frame[0] = (char)left;
    frame[8191] = (char)left;
    return left ? deep(left - 1) + frame[0] : frame[8191];
}

static void stack_growth(void)
{
    char here;
    deep(100);
    char *page = (char *)((uintptr_t)&here & -PAGE) - 60 * PAGE;
    must(mprotect(page, 4 * PAGE, PROT_READ), "mprotect in the grown stack");
    must(mprotect(page, 4 * PAGE, RW), "mprotect back");
    deep(20);
    must(mprotect(page + PAGE, PAGE, RW | PROT_GROWSDOWN) && errno != EINVAL, "PROT_GROWSDOWN");
    must(munmap(page, 4 * PAGE), "munmap in the grown stack");
    deep(10);
}

static void grows_down(void)
{
    char *top = map(512, PROT_NONE);
    must(munmap(top, 512 * PAGE), "munmap");
    char *at = mmap(top + 500 * PAGE, 4 * PAGE, RW, ANON | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
    must(at == MAP_FAILED, "MAP_GROWSDOWN");
    for (int i = 1; i < 100; i++)
        ((volatile char *)at)[-i * PAGE] = 1;
    must(mprotect(at - 50 * PAGE, 10 * PAGE, PROT_READ), "mprotect of what grew");
    for (int i = 100; i < 120; i++)
        ((volatile char *)at)[-i * PAGE] = 1;
    must(munmap(at - 110 * PAGE, 30 * PAGE), "munmap of what grew");
    for (int i = 1; i < 40; i++)
        ((volatile char *)at)[-i * PAGE] = 2;
    must(munmap(at - 200 * PAGE, 204 * PAGE), "munmap of all");
}

static void aio(void)
{
    aio_context_t context = 0, second = 0;
    NEED(syscall(SYS_io_setup, 100, &context), "io_setup");
    must(syscall(SYS_io_setup, 8, &second) != 0, "io_setup again");
    must(syscall(SYS_io_destroy, context) != 0, "io_destroy");
    map(3, RW);
    must(syscall(SYS_io_destroy, second) != 0, "io_destroy again");
    must(syscall(SYS_io_destroy, second) != -1 || errno != EINVAL, "io_destroy twice");
}

static void sysv(void)
{
    int id = shmget(IPC_PRIVATE, 16 * PAGE, IPC_CREAT | 0600);
    NEED(id, "shmget");
    char *at = shmat(id, NULL, 0);
    char *only = shmat(id, NULL, SHM_RDONLY);
    must(at == (void *)-1 || only == (void *)-1, "shmat");
    at[0] = 9;
    must(only[0] != 9, "shared contents");
    must(mprotect(at + 4 * PAGE, 2 * PAGE, PROT_READ), "mprotect in a segment");
    must(munmap(at + 8 * PAGE, PAGE), "munmap in a segment");
    char *over = map(16, RW);
    must(shmat(id, over, SHM_REMAP) != over, "SHM_REMAP");
    must(shmctl(id, IPC_RMID, NULL), "IPC_RMID");
    must(shmdt(at), "shmdt");
    must(shmdt(over), "shmdt of a remapped one");
    if (fork() == 0)
        _exit(shmdt(only));
    int status;
    must(wait(&status) < 0 || status, "shmdt in a child");
    must(shmdt(only), "shmdt");
    must(shmdt(only) != -1, "shmdt twice");
}

static void shared(void)
{
    int memory = memfd_create("laconic", 0), zero = open("/dev/zero", O_RDWR);
    must(memory < 0 || zero < 0 || ftruncate(memory, 32 * PAGE), "memfd");
    char *a = mmap(NULL, 8 * PAGE, RW, MAP_SHARED, memory, 4 * PAGE);
    char *b = mmap(NULL, 8 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *c = mmap(NULL, 8 * PAGE, RW, MAP_SHARED, zero, 0);
    char *d = mmap(NULL, 8 * PAGE, RW, MAP_PRIVATE, zero, 0);
    must(a == MAP_FAILED || b == MAP_FAILED || c == MAP_FAILED || d == MAP_FAILED, "mmap");
    a[0] = b[0] = c[0] = d[0] = 1;
    must(mprotect(b + PAGE, PAGE, PROT_READ) || mprotect(c + PAGE, PAGE, PROT_READ) || mprotect(d + PAGE, PAGE, PROT_READ),
         "mprotect");
    must(mremap(b, 8 * PAGE, 4 * PAGE, 0) == MAP_FAILED, "mremap of shared memory");
    char *e = mremap(b, 0, 4 * PAGE, MREMAP_MAYMOVE);
    must(e == MAP_FAILED || e[0] != 1, "mremap that duplicates");
    must(madvise(a, 8 * PAGE, MADV_REMOVE), "MADV_REMOVE");
    must(msync(a, 8 * PAGE, MS_SYNC), "msync");
    must(syscall(SYS_remap_file_pages, a, 2 * PAGE, 0, 2, 0) != 0, "remap_file_pages");
    must(munmap(a, 8 * PAGE) || munmap(c, 8 * PAGE) || munmap(d, 8 * PAGE) || munmap(e, 4 * PAGE), "munmap");
}

static void huge(void)
{
    char *at = mmap(NULL, 4 << 20, RW, ANON | MAP_HUGETLB, -1, 0);
    NEED((long)at, "MAP_HUGETLB");
    must(mprotect(at, 2 << 20, PROT_READ), "mprotect of huge pages");
    must(munmap(at, 2 << 20), "munmap of huge pages");
}

static void locks(void)
{
    must(mlockall(MCL_CURRENT), "mlockall");
    char *at = map(8, RW);
    must(mlockall(MCL_FUTURE), "mlockall of what comes");
    char *locked = map(8, RW);
    must(sbrk(3 * PAGE) == (void *)-1, "sbrk");
    must(fork() == 0 ? (map(2, RW), _exit(0), 0) : 0, "fork");
    int status;
    must(wait(&status) < 0 || status, "a child of a locked process");
    must(mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT), "MCL_ONFAULT");
    must(munlock(locked, PAGE), "munlock");
    must(munlockall(), "munlockall");
    must(mlock(at + 1, 1) || munlock(at, 8 * PAGE), "mlock of one byte");
}

static void seals(void)
{
    char *at = map(8, RW);
    NEED(syscall(462, at + 2 * PAGE, 2 * PAGE, 0), "mseal");
    must(munmap(at, 8 * PAGE) != -1 || errno != EPERM, "munmap of what is sealed");
    must(mprotect(at, 8 * PAGE, PROT_READ) != -1 || errno != EPERM, "mprotect of what is sealed");
    must(mmap(at, 8 * PAGE, RW, ANON | MAP_FIXED, -1, 0) != MAP_FAILED || errno != EPERM, "mmap over what is sealed");
    must(madvise(at, 8 * PAGE, MADV_DONTFORK), "madvise of what is sealed");
    must(munmap(at + 4 * PAGE, 4 * PAGE), "munmap beside it");
}

static void keys(void)
{
    char *at = map(8, RW);
    int key = pkey_alloc(0, 0);
    must(pkey_mprotect(at, 2 * PAGE, PROT_READ, -1), "pkey_mprotect without a key");
    must(pkey_mprotect(at + 2 * PAGE, 2 * PAGE, PROT_READ, 0) && errno != EINVAL, "pkey_mprotect with key 0");
    must(pkey_mprotect(at, 2 * PAGE, PROT_READ, 15) != -1 || errno != EINVAL, "pkey_mprotect with a key not allocated");
    NEED(key, "pkey_alloc");
    must(pkey_mprotect(at + 4 * PAGE, 2 * PAGE, RW, key), "pkey_mprotect");
    must(mprotect(at, 8 * PAGE, PROT_READ), "mprotect over keys");
}

static void process_advice(void)
{
    char *at = map(8, RW);
    memset(at, 1, 8 * PAGE);
    int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
    NEED(self, "pidfd_open");
    struct { void *base; size_t length; } range = {at, 4 * PAGE};
    must(syscall(SYS_process_madvise, self, &range, 1, MADV_COLD, 0) < 0, "process_madvise");
    long result = syscall(SYS_process_madvise, self, &range, 1, MADV_DONTNEED, 0);
    must(result >= 0 && at[0] != 0, "process_madvise DONTNEED");
    result = syscall(SYS_process_madvise, self, &range, 1, MADV_DONTDUMP, 0);
    printf("DONTDUMP %ld\n", result);
}

static void faults(void)
{
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    NEED(uffd, "userfaultfd");
    struct uffdio_api api = {.api = UFFD_API};
    must(ioctl(uffd, UFFDIO_API, &api), "UFFDIO_API");
    char *at = map(16, RW);
    struct uffdio_register range = {
        .range = {(unsigned long)at + 4 * PAGE, 4 * PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    must(ioctl(uffd, UFFDIO_REGISTER, &range), "UFFDIO_REGISTER");
    must(mprotect(at + PAGE, 5 * PAGE, PROT_READ), "mprotect");
    must(mmap(at + 6 * PAGE, 4 * PAGE, RW, ANON | MAP_FIXED, -1, 0) == MAP_FAILED, "mmap");
    must(munmap(at + 3 * PAGE, 2 * PAGE), "munmap");
    must(fork() == 0 ? (munmap(at, 16 * PAGE), _exit(0), 0) : 0, "fork");
    must(wait(NULL) < 0, "wait");
    must(ioctl(uffd, UFFDIO_UNREGISTER, &range.range) && errno != EINVAL, "UFFDIO_UNREGISTER");
    must(munmap(at, 16 * PAGE), "munmap");
}

static void names(void)
{
    char *at = map(8, RW);
    NEED(prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, at + PAGE, 2 * PAGE, "laconic"), "PR_SET_VMA");
    must(prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, at + PAGE, PAGE, NULL), "PR_SET_VMA to nothing");
    must(mprotect(at, 8 * PAGE, PROT_READ), "mprotect");
}

static void guards(void)
{
    char *at = map(8, RW);
    NEED(madvise(at + PAGE, 2 * PAGE, 102), "MADV_GUARD_INSTALL");
    must(mprotect(at, 8 * PAGE, PROT_READ) || mprotect(at, 8 * PAGE, RW), "mprotect");
    must(mmap(at, 8 * PAGE, RW, ANON | MAP_FIXED, -1, 0) != at, "mmap over guards");
    at[PAGE] = 1;
    must(madvise(at, 8 * PAGE, 102) || madvise(at, 8 * PAGE, 103), "MADV_GUARD_REMOVE");
    at[PAGE] = 1;
}

static void denies(void)
{
    NEED(prctl(65, 1, 0, 0, 0), "PR_SET_MDWE");
    char *at = map(8, RW);
    must(mprotect(at, PAGE, PROT_READ | PROT_EXEC) != -1 || errno != EACCES, "mprotect to EXEC");
    must(mmap(NULL, PAGE, RW | PROT_EXEC, ANON, -1, 0) != MAP_FAILED || errno != EACCES, "mmap W and X");
}

/* i386 calls from a 64-bit program: the numbers are others, and the addresses are below 4 GiB. */
static long int_80(long nr, long a, long b, long c)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(nr), "b"(a), "c"(b), "d"(c) : "r8", "r9", "r10", "r11", "memory");
    return (int)result;
}

static void foreign(void)
{
    char *at = mmap(NULL, 16 * PAGE, RW, ANON | MAP_32BIT, -1, 0);
    must(at == MAP_FAILED, "MAP_32BIT");
    if (int_80(20, 0, 0, 0) != getpid()) {
        printf("skip: no int 0x80\n");
        return;
    }
    must(int_80(125, (long)at, 2 * PAGE, PROT_READ) != 0, "i386 mprotect");
    must(int_80(91, (long)at + 4 * PAGE, PAGE, 0) != 0, "i386 munmap");
    must(int_80(219, (long)at + 6 * PAGE, PAGE, MADV_DONTFORK) != 0, "i386 madvise");
    must(mprotect(at, 4 * PAGE, RW), "mprotect");
    must(int_80(150, (long)at + 8 * PAGE, PAGE, 0) != 0, "i386 mlock");
    must(munlock(at + 8 * PAGE, PAGE), "munlock");
}

/* In a static program that is not position independent the break lies below 4 GiB. */
static void foreign_break(void)
{
    long old = raw(SYS_brk, 0, 0, 0, 0, 0, 0);
    if (old >> 32) {
        printf("skip: the break is above 4 GiB\n");
        return;
    }
    int_80(45, old + 3 * PAGE, 0, 0);
    must(raw(SYS_brk, 0, 0, 0, 0, 0, 0) != old + 3 * PAGE, "the break after an i386 brk");
    must(raw(SYS_brk, old + 5 * PAGE, 0, 0, 0, 0, 0) != old + 5 * PAGE, "brk");
    *(char *)(old + 4 * PAGE) = 1;
}

static const struct {
    const char *name;
    void (*run)(void);
} ALL[] = {{"stack", stack_growth}, {"growsdown", grows_down}, {"aio", aio}, {"sysv", sysv}, {"shared", shared},
           {"hugetlb", huge}, {"locks", locks}, {"mseal", seals}, {"pkeys", keys}, {"process-madvise", process_advice},
           {"userfaultfd", faults}, {"names", names}, {"guards", guards}, {"mdwe", denies}, {"int80", foreign},
           {"int80-brk", foreign_break}};

int main(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof ALL / sizeof *ALL; i++)
        if (argc > 1 && !strcmp(argv[1], ALL[i].name)) {
            ALL[i].run();
            map(2, RW);
            printf("done\n");
            return 0;
        }
    return 2;
}
