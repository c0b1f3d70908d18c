"""Both sides of the wire: what is said (`messages`), how it is written (`codec`) and how it travels (`fdsocket`).

No event loop, no system call other than on sockets and memfds, no policy.
"""
