"""A model of an SGX2 enclave as a host: the EPCM, the kernel's driver, the PAL that uses them, and
the costs."""
