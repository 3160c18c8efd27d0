"""One small Faust agent a subsystem: decode, call a pure function, publish."""
