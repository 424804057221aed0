/* A code cache: one page of a large executable region is opened for writing, then the whole region is closed.
   The code written there is called before and after. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { REGION = 128 << 20 };

int main(void)
{
    static const unsigned char answer[] = {0xb8, 42, 0, 0, 0, 0xc3}; /* mov $42, %eax; ret */
    long page = sysconf(_SC_PAGESIZE);
    char *region = mmap(NULL, REGION, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    char *code = region + REGION / 2;
    if (mprotect(code, (size_t)page, PROT_READ | PROT_WRITE)) {
        perror("mprotect of the page");
        return 1;
    }
    memcpy(code, answer, sizeof answer);
    if (mprotect(region, REGION, PROT_READ | PROT_EXEC)) {
        perror("mprotect of the region");
        return 1;
    }
    int (*function)(void);
    memcpy(&function, &code, sizeof function);
    if (function() != 42 || region[0] != 0 || region[REGION - 1] != 0) {
        fprintf(stderr, "wrong contents\n");
        return 1;
    }
    puts("OK");
    return 0;
}
