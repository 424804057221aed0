/* All that a program can ask about itself and where it runs, process ids apart. */
#include "lab.h"
#include <dirent.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

extern char **environ;

static void status_lines(void)
{
    static const char *names[] = {"Umask", "Uid", "Gid", "Groups", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt",
                                  "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Threads",
                                  "Cpus_allowed", "Mems_allowed", "CoreDumping", "THP_enabled"};
    char line[4096];
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            if (!strncmp(line, names[i], strlen(names[i])) && line[strlen(names[i])] == ':')
                fputs(line, stdout);
    if (file)
        fclose(file);
}

static void descriptors(void)
{
    /* From 0 up, so that the order is the same; the highest that a test uses is far below. */
    for (int fd = 0; fd < 1024; fd++) {
        struct stat seen;
        int flags = fcntl(fd, F_GETFD);
        if (flags < 0)
            continue;
        if (fstat(fd, &seen))
            fail("fstat");
        printf("fd %d type %o flags %d mode %o tty %d", fd, seen.st_mode & S_IFMT, flags, fcntl(fd, F_GETFL), isatty(fd));
        if (S_ISREG(seen.st_mode))
            printf(" at %ld", (long)lseek(fd, 0, SEEK_CUR));
        printf("\n");
    }
}

int main(int argc, char **argv)
{
    setvbuf(stdout, 0, _IOLBF, BUFSIZ); /* where both go to one place, the order must not hang on how much is said */
    char text[4096];
    descriptors();
    printf("cwd %s\n", getcwd(text, sizeof text));
    for (int i = 0; i < argc; i++)
        printf("argument %d [%s]\n", i, argv[i]);
    for (char **word = environ; *word; word++)
        printf("environment [%s]\n", *word);
    status_lines();
    for (int which = 0; which < RLIM_NLIMITS; which++) {
        struct rlimit limit;
        getrlimit(which, &limit);
        printf("limit %d %ld %ld\n", which, (long)limit.rlim_cur, (long)limit.rlim_max);
    }
    printf("nice %d, policy %d, personality %x, dumpable %d, reaper %d, death signal %d\n",
           getpriority(PRIO_PROCESS, 0), sched_getscheduler(0), personality(0xffffffff),
           prctl(PR_GET_DUMPABLE), prctl(PR_GET_CHILD_SUBREAPER, text), prctl(PR_GET_PDEATHSIG, text));
    printf("io priority %ld, timer slack %d, thp %d, secure %ld, file [%s]\n", syscall(SYS_ioprio_get, 1, 0),
           prctl(PR_GET_TIMERSLACK), prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), getauxval(AT_SECURE),
           (char *)getauxval(AT_EXECFN));
    printf("group is the parent's: %d, session is the parent's: %d, leads one: %d\n", getpgrp() == getpgid(getppid()),
           getsid(0) == getsid(getppid()), getpgrp() == getpid());
    for (int number = 1; number < 65; number++) {
        struct sigaction now;
        if (!sigaction(number, NULL, &now) && now.sa_handler != SIG_DFL)
            printf("signal %d handler %ld flags %x\n", number, (long)now.sa_handler, now.sa_flags);
    }
    for (int fd = 0; fd < 3; fd++) {
        struct winsize size;
        if (!ioctl(fd, TIOCGWINSZ, &size))
            printf("window %d: %d rows, %d columns, foreground %d\n", fd, size.ws_row, size.ws_col,
                   tcgetpgrp(fd) == getpgrp());
    }
    if (!isatty(0))
        for (ssize_t got; (got = read(0, text, sizeof text)) > 0;)
            printf("input [%.*s]\n", (int)got, text);
    fprintf(stderr, "to standard error\n");
    return 0;
}
