"""The modelled enclave hardware and driver."""
