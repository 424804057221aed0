/* What the logs in this folder show: every kind of memory call, a thread, a fork and a vfork that run /bin/true. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static void *thread(void *argument) {
    char *q = mmap(0, 8192, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    q[0] = 1;
    munmap(q, 8192);
    return argument;
}

int main() {
    char *p = mmap(0, 1 << 16, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    mprotect(p, 8192, 3);
    p[0] = 1;
    madvise(p, 4096, MADV_DONTNEED);
    madvise(p, 8192, MADV_FREE);
    madvise(p, 4096, 200);
    p = mremap(p + 8192, 1 << 13, 1 << 20, MREMAP_MAYMOVE);
    msync(p, 4096, MS_SYNC);
    mmap(0, 0, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = open("/bin/true", O_RDONLY);
    char *m = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    m[1] = 2;
    close(0);
    fd = open("/bin/true", O_RDONLY);
    mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 4096);
    mlock(m, 4096);
    munlock(m, 4096);
    pthread_t t;
    pthread_create(&t, 0, thread, 0);
    pthread_join(t, 0);
    if (!fork()) {
        char *s = sbrk(8192);
        s[0] = 1;
        execl("/bin/true", "true", NULL);
    }
    wait(0);
    if (!vfork()) {
        execl("/bin/true", "true", NULL);
        _exit(1);
    }
    wait(0);
    return 3;
}
