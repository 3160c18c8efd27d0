"""Leyline's contracts: the protobuf messages, the generated code and the topic table. Imports nothing of ours."""
