/* With a seccomp filter of its own, maps at places that only the kernel can foretell, and uses them. */
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

enum { PAGE = 4096 };

int main(void)
{
    struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {1, allow};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        return 1;
    for (int round = 0; round < 20; round++) {
        /* Under MAP_32BIT the kernel begins its search at random (find_start_end in sys_x86_64.c). */
        char *low = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
        if (low == MAP_FAILED || (size_t)low >> 32)
            return 2;
        memset(low, round + 1, 8 * PAGE);
        char *moved = mremap(low, 8 * PAGE, 64 * PAGE, MREMAP_MAYMOVE);
        if (moved == MAP_FAILED || moved[8 * PAGE - 1] != round + 1)
            return 3;
        moved[64 * PAGE - 1] = 1;
        /* A fixed mapping of which only parts change: its result is the address that was asked for. */
        mprotect(moved + 16 * PAGE, PAGE, PROT_READ);
        mprotect(moved + 24 * PAGE, PAGE, PROT_READ);
        char *again = mmap(moved + 8 * PAGE, 32 * PAGE, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (again != moved + 8 * PAGE || again[16 * PAGE] || moved[8 * PAGE - 1] != round + 1)
            return 4;
        again[31 * PAGE] = 1;
        if (round % 2 && munmap(moved, 64 * PAGE))
            return 5;
    }
    puts("used");
    return 0;
}
