"""Leyline's typed edge: ids, the envelope, signing, limits, the object store."""
