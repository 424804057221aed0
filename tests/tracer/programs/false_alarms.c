/* Correct programs that `--verify` once called a defect. `false_alarms NAME` runs one of them. */
#include "lab.h"
#include <elf.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x10
#endif
#ifndef SYS_mseal
#define SYS_mseal 462
#endif
#define MREMAP_KIND (MREMAP_MAYMOVE | MREMAP_FIXED)

static char *self;

static void skip(const char *what)
{
    printf("skip: %s\n", what);
    exit(0);
}

/* Some memory calls, so that there is something to compare after the odd one. */
static void memory_calls(void)
{
    char *at = map(8, RW);
    stripe(at, 8);
    if (mprotect(at, 8 * PAGE, RW) || munmap(at, 8 * PAGE))
        fail("memory calls");
}

static int wait_for(pid_t pid)
{
    int status;
    if (waitpid(pid, &status, 0) != pid)
        fail("waitpid");
    return status;
}

static void exec_killed(void)
{
    for (int try = 0; try < 60; try++) {
        pid_t pid = fork();
        if (pid == 0) {
            char *words[] = {self, "sleep", NULL};
            execv(self, words);
            _exit(1);
        }
        struct timespec pause = {0, try * 25000L};
        nanosleep(&pause, NULL);
        kill(pid, SIGKILL);
        wait_for(pid);
    }
}

/* A program of which the kernel finds only after the old one is gone that it cannot be loaded. */
static void exec_fails(void)
{
    char path[] = "/tmp/false-alarm-XXXXXX";
    struct { Elf64_Ehdr head; Elf64_Phdr load; } file = {0};
    memcpy(file.head.e_ident, ELFMAG, SELFMAG);
    file.head.e_ident[EI_CLASS] = ELFCLASS64;
    file.head.e_ident[EI_DATA] = ELFDATA2LSB;
    file.head.e_ident[EI_VERSION] = EV_CURRENT;
    file.head.e_type = ET_EXEC;
    file.head.e_machine = EM_X86_64;
    file.head.e_version = EV_CURRENT;
    file.head.e_entry = 0x400000;
    file.head.e_phoff = sizeof file.head;
    file.head.e_ehsize = sizeof file.head;
    file.head.e_phentsize = sizeof file.load;
    file.head.e_phnum = 1;
    file.load.p_type = PT_LOAD;
    file.load.p_flags = PF_R | PF_X;
    file.load.p_vaddr = 0x7ffffffff000;  /* the page above the highest that a program may map */
    file.load.p_filesz = file.load.p_memsz = PAGE;
    file.load.p_align = PAGE;
    int fd = mkstemp(path);
    if (fd < 0 || write(fd, &file, sizeof file) != sizeof file || ftruncate(fd, PAGE) || fchmod(fd, 0700))
        fail("the broken program");
    close(fd);
    for (int try = 0; try < 3; try++) {
        pid_t pid = fork();
        if (pid == 0) {
            char *words[] = {path, NULL};
            memory_calls();
            execv(path, words);
            _exit(1);
        }
        int status = wait_for(pid);
        printf("signal %d, status %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0, WEXITSTATUS(status));
    }
    unlink(path);
}

static void sealed(int seal)
{
    int fd = memfd_create("sealed", MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, 4 * PAGE) || fcntl(fd, F_ADD_SEALS, seal))
        skip("seals of this kind");
    char *at = mmap(NULL, 4 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        skip("a shared mapping of a sealed memfd");
    memory_calls();
    printf("writable: %d\n", mprotect(at, PAGE, RW) ? errno : 0);
    printf("shared and writable: %d\n", mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0) == MAP_FAILED ? errno : 0);
    printf("private: %d\n", mmap(NULL, PAGE, RW, MAP_PRIVATE, fd, 0) == MAP_FAILED ? errno : 0);
    memory_calls();
}

static void merged(void)
{
    if (prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0))
        skip("prctl(PR_SET_MEMORY_MERGE)");
    char *at = map(4, RW);
    void *shared = mmap(NULL, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (sbrk(3 * PAGE) == (void *)-1 || shared == MAP_FAILED || madvise(at, PAGE, MADV_UNMERGEABLE))
        fail("mappings that are merged");
    memory_calls();
    pid_t pid = fork();
    if (pid == 0) {
        char *words[] = {self, "calls", NULL};
        map(3, RW);
        execv(self, words);
        _exit(1);
    }
    printf("status %d\n", wait_for(pid));
    if (prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0))
        fail("no longer merged");
    map(5, RW);
    memory_calls();
}

static void secret(void)
{
    int fd = (int)syscall(SYS_memfd_secret, 0);
    if (fd < 0 || ftruncate(fd, 4 * PAGE))
        skip("memfd_secret");
    char *at = mmap(NULL, 4 * PAGE, RW, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        skip("a mapping of memfd_secret");
    at[0] = 1;
    memory_calls();
    printf("executable: %d\n", mprotect(at, PAGE, PROT_READ | PROT_EXEC) ? errno : 0);
    printf("fixed: %d\n", mmap(at + PAGE, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED ? errno : 0);
    munmap(at, 2 * PAGE);
    memory_calls();
}

static void zero(void)
{
    int fd = open("/dev/zero", O_RDWR);
    char *at = mmap(NULL, 2 * PAGE, RW, MAP_PRIVATE, fd, 0);
    char *other = mmap(NULL, 2 * PAGE, RW, MAP_PRIVATE, fd, 3 * PAGE);
    if (at == MAP_FAILED || other == MAP_FAILED)
        fail("/dev/zero");
    other[0] = 1;
    char *room = map(64, PROT_NONE);
    if (mremap(at, 2 * PAGE, 2 * PAGE, MREMAP_KIND, room) != room)
        fail("mremap of what was not touched");
    if (mremap(other, 2 * PAGE, 2 * PAGE, MREMAP_KIND, room + 8 * PAGE) != room + 8 * PAGE)
        fail("mremap of what was touched");
    memory_calls();
}

static void sync_fork(void)
{
    int fd = memfd_create("synchronous", 0);
    if (fd < 0 || ftruncate(fd, 4 * PAGE))
        fail("a memfd");
    void *at = mmap(NULL, 4 * PAGE, RW, MAP_SHARED | MAP_SYNC, fd, 0);
    printf("MAP_SHARED | MAP_SYNC: %d\n", at == MAP_FAILED ? errno : 0);
    pid_t pid = fork();
    if (pid == 0) {
        memory_calls();
        _exit(0);
    }
    wait_for(pid);
    memory_calls();
}

static void remap_executable(void)
{
    if (personality(READ_IMPLIES_EXEC) < 0)
        fail("personality");
    int fd = memfd_create("pages", 0);
    if (fd < 0 || ftruncate(fd, 4 * PAGE))
        fail("a memfd");
    personality(PER_LINUX);
    char *at = mmap(NULL, 4 * PAGE, RW, MAP_SHARED, fd, 0);
    personality(READ_IMPLIES_EXEC);
    if (at == MAP_FAILED)
        fail("a shared mapping");
    printf("remap_file_pages: %d\n", syscall(SYS_remap_file_pages, at, PAGE, 0, 2, 0) ? errno : 0);
    memory_calls();
}

static void supervised(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {4, code};
    int pair[2];
    if (pipe(pair))
        fail("pipe");
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) {
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        int fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
        if (write(pair[1], &fd, sizeof fd) != sizeof fd)
            _exit(1);
        /* The last memory call of this process: its supervisor lets it pass. */
        long at = raw(SYS_mmap, 0, PAGE, RW, ANON, -1, 0);
        _exit(at < 0);
    }
    int listener;
    if (read(pair[0], &listener, sizeof listener) != sizeof listener || listener < 0)
        skip("a seccomp supervisor");
    struct seccomp_notif ask = {0};
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &ask))
        fail("notification");
    struct seccomp_notif_resp answer = {.id = ask.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer))
        fail("answer");
    printf("status %d\n", wait_for(pid));
}

/* Three VMAs, the second of which cannot be moved: since 6.17 the first is moved before the kernel finds that. */
static void half_moved(int kind)
{
    char *at = map(16, PROT_NONE) + PAGE, *to = map(16, PROT_NONE) + PAGE;
    if (mprotect(at, PAGE, RW) || mprotect(at + PAGE, PAGE, PROT_READ) || mprotect(at + 2 * PAGE, PAGE, RW))
        fail("three VMAs");
    at[0] = at[2 * PAGE] = 1;
    long result = 0;
    if (kind == 0)
        result = syscall(SYS_mseal, at + PAGE, PAGE, 0);
    else if (kind == 1)
        result = munmap(at + PAGE, PAGE);
    else if (kind == 2) {
        int fd = (int)syscall(SYS_memfd_secret, 0);
        if (fd < 0 || ftruncate(fd, PAGE))
            skip("memfd_secret");
        result = mmap(at + PAGE, PAGE, RW, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED;
    } else {
        result = mmap(at + PAGE, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED;
    }
    if (result)
        skip("a VMA that cannot be moved");
    long moved = raw(SYS_mremap, (long)at, 3 * PAGE, 3 * PAGE, MREMAP_KIND, (long)to, 0);
    printf("mremap: %ld\n", moved < 0 ? moved : 0);
    for (int page = 0; page < 3; page++) {
        unsigned char resident;
        int here = mincore(at + page * PAGE, PAGE, &resident) ? errno : 0;
        printf("page %d: %d\n", page, here);
    }
    memory_calls();
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    self = argv[0];
    if (!strcmp(name, "sleep"))
        for (;;)
            pause();
    else if (!strcmp(name, "calls"))
        memory_calls();
    else if (!strcmp(name, "exec-killed"))
        exec_killed();
    else if (!strcmp(name, "exec-fails"))
        exec_fails();
    else if (!strcmp(name, "sealed"))
        sealed(F_SEAL_WRITE);
    else if (!strcmp(name, "sealed-future"))
        sealed(F_SEAL_FUTURE_WRITE);
    else if (!strcmp(name, "merged"))
        merged();
    else if (!strcmp(name, "secret"))
        secret();
    else if (!strcmp(name, "zero"))
        zero();
    else if (!strcmp(name, "sync-fork"))
        sync_fork();
    else if (!strcmp(name, "remap-executable"))
        remap_executable();
    else if (!strcmp(name, "supervised"))
        supervised();
    else if (!strncmp(name, "half-moved-", 11))
        half_moved(atoi(name + 11));
    else
        fail("no such part");
    puts("done");
    return 0;
}
