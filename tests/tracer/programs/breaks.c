/* Moves the break by some pages, and by 8 MiB, and says what came of it. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
    printf("%d", sbrk(33 * 4096) != (void *) -1);
    printf(" %d\n", sbrk(8 << 20) != (void *) -1);
    return 0;
}
