"""`esper projections`: the tables that are folded from the log, and how far they are."""
