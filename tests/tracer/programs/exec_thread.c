/* execve from a thread that is not the leader, while others are in memory calls; then from one execve to the next. */
#include "lab.h"

static char *self;

static void *busy(void *arg)
{
    (void)arg;
    for (;;) {
        char *at = map(8, RW);
        stripe(at, 8);
        mprotect(at, 8 * PAGE, PROT_READ);
        munmap(at, 8 * PAGE);
    }
    return NULL;
}

static void *go(void *arg)
{
    char left[16];
    snprintf(left, sizeof left, "%d", atoi(arg) - 1);
    usleep(3000);
    execl(self, self, left, (char *)NULL);
    fail("execl");
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t id;
    self = argv[0];
    if (argc < 2 || atoi(argv[1]) == 0) {
        printf("last\n");
        return 5;
    }
    for (int t = 0; t < 3; t++)
        pthread_create(&id, NULL, busy, NULL);
    pthread_create(&id, NULL, go, argv[1]);
    if (atoi(argv[1]) % 2)
        pthread_exit(NULL);
    busy(NULL);
}
