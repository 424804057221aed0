"""The PAL of an enclave: each kind of change as its minimal sequence of SGX instructions."""
