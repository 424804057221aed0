"""An SGX2 enclave as a host, modelled: the EPCM, the kernel's driver, the PAL that uses them, and
what it all costs."""
