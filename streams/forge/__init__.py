"""The forge: Tezzeret's process, which turns compile requests on the log into artifacts, one child per attempt."""
