"""Version 1 of the contracts: `event_pb2` (the envelope and its bodies) and `leyline_pb2` (messages and enums)."""
