"""The kernel: system calls that Python has not, and /proc. No policy, no knowledge of workers or messages."""
