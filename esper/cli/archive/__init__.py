"""`esper archive`: what it covers, whether it is whole, merging its files, copies of it."""
