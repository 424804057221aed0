/* Thousands of VMAs: `many_vmas N` makes 2 N of them by N mprotects; then `random M`, `refused M` or `forks M`. */
#include "lab.h"

int main(int argc, char **argv)
{
    long calls = argc > 1 ? atol(argv[1]) : 0;
    const char *part = argc > 2 ? argv[2] : "";
    long times = argc > 3 ? atol(argv[3]) : 0;
    if (calls < 1)
        fail("usage: many_vmas N [random|refused|forks M]");
    char *at = map(2 * calls, RW);
    stripe(at, 2 * calls);
    for (long i = 0; i < times; i++) {
        if (!strcmp(part, "refused")) {
            if (mmap(NULL, 1L << 46, RW, ANON, -1, 0) != MAP_FAILED || errno != ENOMEM)
                fail("a mapping of 64 TiB");
        } else if (!strcmp(part, "forks")) {
            pid_t pid = fork();
            if (pid == 0)
                _exit(0);
            waitpid(pid, NULL, 0);
        } else {
            long page = random() % (2 * calls);
            if (mprotect(at + page * PAGE, PAGE, i & 1 ? RW : PROT_READ))
                fail("mprotect");
        }
    }
    puts("done");
    return 0;
}
