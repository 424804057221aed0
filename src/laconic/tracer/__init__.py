"""Real programs: ptrace, a seccomp filter, the process tree, system calls carried out inside the
program."""
