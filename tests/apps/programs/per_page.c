/* What Gramine's issue #1708 is about: memory that is mapped readable and writable is made so again, page by page.
   per_page PAGES WHEN: WHEN is `each` (the default), `once` for all pages before the loop, or `never`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, RW = PROT_READ | PROT_WRITE };

int main(int argc, char **argv)
{
    size_t pages = argc > 1 ? strtoul(argv[1], NULL, 10) : 4000;
    const char *when = argc > 2 ? argv[2] : "each";
    char *memory = mmap(NULL, pages * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned long sum = 0;

    if (memory == MAP_FAILED)
        return perror("mmap"), 1;
    if (!strcmp(when, "once") && mprotect(memory, pages * PAGE, RW))
        return perror("mprotect"), 1;
    for (size_t i = 0; i < pages; i++) {
        if (!strcmp(when, "each") && mprotect(memory + i * PAGE, PAGE, RW))
            return perror("mprotect"), 1;
        memory[i * PAGE] = (char)i;
    }
    for (size_t i = 0; i < pages; i++)
        sum += (unsigned char)memory[i * PAGE];
    printf("%lu\n", sum);
    return munmap(memory, pages * PAGE) ? perror("munmap"), 1 : 0;
}
