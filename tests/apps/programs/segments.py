"""System V shared memory in a fresh IPC namespace: the first segment has the id 0."""

import ctypes

IPC_PRIVATE, SIZE, MODE, IPC_RMID = 0, 8192, 0o600, 0

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
libc.shmdt.argtypes = [ctypes.c_void_p]

for number in range(3):
    segment = libc.shmget(IPC_PRIVATE, SIZE, MODE)
    address = libc.shmat(segment, None, 0)
    ctypes.memset(address, number, SIZE)
    total = sum(ctypes.string_at(address, SIZE))
    detached = libc.shmdt(address)
    removed = libc.shmctl(segment, IPC_RMID, None)
    print(segment, total, detached, removed)
