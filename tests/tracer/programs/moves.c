/* Moves two VMAs with one mremap, again and again, while a timer sends signals. The second is searched for equal pages,
   and to end that can be interrupted (break_ksm in mm/ksm.c). */
#include "lab.h"
#include <sys/time.h>

static void ignore(int number)
{
    (void)number;
}

int main(void)
{
    struct itimerval period = {{0, 1000}, {0, 1000}};
    int failed = 0;
    signal(SIGALRM, ignore);
    char *from = map(2, RW), *to = map(2, RW);
    setitimer(ITIMER_REAL, &period, NULL);
    for (int i = 0; i < 300; i++) {
        if (mmap(from, 2 * PAGE, RW, ANON | MAP_FIXED, -1, 0) != from || madvise(from + PAGE, PAGE, MADV_MERGEABLE))
            fail("two VMAs, of which one is mergeable");
        from[PAGE] = 1;
        failed += mremap(from, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to;
    }
    printf("%d failed\n", failed);
    return 0;
}
