/* Makes 22 mprotect calls from one place, all of which fail: EINVAL at an odd address, ENOMEM where nothing is mapped. */
#include <sys/mman.h>

__attribute__((noinline)) static int protect(unsigned long address)
{
    return mprotect((void *)address, 4096, PROT_READ);
}

int main(void)
{
    int failed = 0;
    for (unsigned long i = 0; i < 22; i++)
        failed += protect(0x10000 + i % 2) != 0;
    return failed == 22 ? 0 : 1;
}
