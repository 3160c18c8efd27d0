"""Leyline, the contracts of Esper: the protobuf messages, the generated code and the topic table. Imports nothing of ours."""
