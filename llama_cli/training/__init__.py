"""Training: sections 2.2 and 2.3 on one device, and a run directory that can be continued.

    data ─▶ loop (model, optimizer, schedule) ─▶ run ─▶ log, checkpoint, plot

`loop` is the arithmetic of one step; `build` makes it of what a job asks for; `run` adds what a
run needs around it: a lock, the log, checkpoints, signals. `place`, `meeting` and `launch` start a
run's processes, `watch` follows it from outside. None of it prints; what there is to say goes to
callbacks.
"""
