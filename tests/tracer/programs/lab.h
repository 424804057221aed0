/* What the programs of these tests share: raw calls, so that no library hides a result. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096L
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

/* A system call's result as the kernel gives it: a value, or a negative errno. */
static inline long raw(long nr, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static inline char *map(long pages, int prot)
{
    char *at = mmap(NULL, pages * PAGE, prot, ANON, -1, 0);
    if (at == MAP_FAILED) {
        perror("mmap");
        exit(99);
    }
    return at;
}

/* Pages 0, 2, 4... of `at` read-only, the others as they were: an mprotect to PROT_READ then needs several host calls. */
static inline void stripe(char *at, long pages)
{
    for (long page = 0; page < pages; page += 2)
        if (mprotect(at + page * PAGE, PAGE, PROT_READ))
            exit(98);
}

static inline void fail(const char *what)
{
    printf("FAILED: %s (errno %d, %s)\n", what, errno, strerror(errno));
    fflush(stdout);
    _exit(97);
}
