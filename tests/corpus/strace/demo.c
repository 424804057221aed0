#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>
static void *thread(void *argument) {
    char *area = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(area, 4096, PROT_READ);
    munmap(area, 8192);
    return argument;
}
int main(int count, char **words) {
    if (count > 1) raise(SIGKILL);
    char *area = mmap(0, 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    mprotect(area, 32768, PROT_READ | PROT_WRITE);
    mmap(area + 8192, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    madvise(area, 8192, MADV_DONTNEED);
    area = mremap(area, 4096, 16384, MREMAP_MAYMOVE);
    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, area, 4096, "a, name");
    munmap(area + 8192, 4097);
    munmap((char *)1, 4096);
    int fd = open("data, (1).txt", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    ftruncate(fd, 8192);
    int copy = dup2(fd, 20);
    close(fd);
    mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, copy, 0);
    unlink("data, (1).txt");
    int memory = memfd_create("memory", MFD_CLOEXEC);
    ftruncate(memory, 4096);
    mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    mmap(0, 4096, PROT_READ, MAP_SHARED, 99, 0);
    int id = shmget(IPC_PRIVATE, 4096, 0600 | IPC_CREAT);
    char *shared = shmat(id, 0, 0);
    shmdt(shared);
    shmctl(id, IPC_RMID, 0);
    sbrk(8192);
    sbrk(-4096);
    mlock(area, 1);
    pthread_t one;
    pthread_create(&one, 0, thread, 0);
    pthread_join(one, 0);
    int status;
    if (!fork()) {
        thread(0);
        execl("./missing", "missing", (char *)0);
        execl("./demo", "./demo", "again", (char *)0);
    }
    wait(&status);
    if (!vfork()) _exit(3);
    wait(&status);
    return 7;
}
