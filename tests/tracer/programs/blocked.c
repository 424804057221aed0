/* One thread is blocked in a memory call, on a page that another thread has to bring (userfaultfd). */
#include "lab.h"
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>

static int uffd;
static char *slow;
static volatile int served;

/* Brings the pages that are missing; between two it makes memory calls, as any program does. */
static void *serve(void *arg)
{
    char *page = map(1, RW);
    page[0] = 42;
    for (;;) {
        struct pollfd wait = {.fd = uffd, .events = POLLIN};
        struct uffd_msg message;
        if (poll(&wait, 1, 1000) <= 0 || read(uffd, &message, sizeof message) != sizeof message)
            continue;
        usleep(5000);
        char *own = map(8, RW);
        stripe(own, 8);
        if (mprotect(own, 8 * PAGE, PROT_READ) || munmap(own, 8 * PAGE))
            fail("memory calls while another is blocked");
        served++;
        struct uffdio_copy copy = {
            .dst = message.arg.pagefault.address & ~(PAGE - 1), .src = (unsigned long)page, .len = PAGE};
        ioctl(uffd, UFFDIO_COPY, &copy);
    }
    return arg;
}

static void prepare(void)
{
    pthread_t id;
    uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (uffd < 0) {
        printf("skip: no userfaultfd\n");
        exit(0);
    }
    struct uffdio_api api = {.api = UFFD_API};
    if (ioctl(uffd, UFFDIO_API, &api))
        fail("UFFDIO_API");
    slow = map(4, RW);
    struct uffdio_register range = {
        .range = {(unsigned long)slow, 4 * PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (ioctl(uffd, UFFDIO_REGISTER, &range))
        fail("UFFDIO_REGISTER");
    if (pthread_create(&id, NULL, serve, NULL))
        fail("pthread_create");
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    prepare();
    if (!strcmp(name, "populate")) {
        if (madvise(slow, 4 * PAGE, MADV_POPULATE_WRITE))
            fail("MADV_POPULATE_WRITE");
    } else if (!strcmp(name, "mlock")) {
        if (mlock(slow, 4 * PAGE))
            fail("mlock");
    } else if (!strcmp(name, "mlockall")) {
        if (mlockall(MCL_CURRENT))
            fail("mlockall");
    } else if (!strcmp(name, "discard")) {
        /* What looks untouched is not: the pages come from the other thread again. */
        for (int i = 0; i < 4; i++)
            if (slow[i * PAGE] != 42)
                fail("contents");
        if (madvise(slow, 4 * PAGE, MADV_DONTNEED))
            fail("MADV_DONTNEED");
    } else
        return 2;
    for (int i = 0; i < 4; i++)
        if (slow[i * PAGE] != 42)
            fail("contents");
    printf("done, %s\n", served >= 4 ? "served" : "NOT SERVED");
    return 0;
}
