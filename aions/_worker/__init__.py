"""The worker, and the forkserver, which is the worker that never leaves home.

One thread, no event loop, standard library only. `__main__` starts the forkserver; `loop` serves requests in either; `handlers`
and its two late companions, `commands` and `functions`, hold one function for each request; `children` looks after what was
started.
"""
