"""Leyline, the contracts of Esper: protobuf messages, generated code and the topic table. Imports nothing of ours."""
