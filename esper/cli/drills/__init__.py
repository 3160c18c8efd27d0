"""`esper drill`: each drill breaks something of a running Esper from outside, and looks whether people are told.

A drill has a scratch data folder, a run that trains in it, and a web server that its alerts are sent to. It publishes
nothing: it stops processes, kills them, takes their disk away, or has the network that trains do wrong. `table` has
every drill with what it breaks and what is expected, `breaks` how it is done, `scene` what it is done to.
"""
