"""Hosts: the code here is the only code that reads or changes one."""
