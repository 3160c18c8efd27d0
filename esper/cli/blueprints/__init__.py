"""`esper blueprints`: the catalogue, what is stored and what became of it, and the two things to ask for.

`list`, `show` and `history` read the archive alone; `approve` and `compile` write to the log and need its processes.
"""
