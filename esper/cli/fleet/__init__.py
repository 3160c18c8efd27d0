"""`esper work`, `esper submit` and `esper withdraw`: runs that any machine may train."""
