"""Running programs that a model wrote, without harm to the machine, its user or the result.

    tiers.py      which way is used: namespaces, bubblewrap, or none
    pool.py       many programs at once, results in order
    result.py     what became of one
    forked.py  ─▶ zygote.py ─▶ namespaces.py     our own namespaces, forked
    spawn.py      bubblewrap, or bare Python
    candidate.py  the program, in the process that is given up to it
    watch.py      its end: by itself, the clock, or its output
    view.py limits.py seccomp.py syscalls.py     what it sees, may use and may call
    kernel.py channel.py                         Linux through ctypes; messages
    probes.py     attacks, to see which are stopped

A benchmark runs tens of thousands of programs, most of them harmless and wrong, some of them
loops, and now and then one that deletes what it can reach. docs/sandbox.md says what each tier
stops, as measured, and what none promises.
"""
