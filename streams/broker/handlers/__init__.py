"""What each request does: one module per family, one function per API.

A handler takes the core, the caller and the request (a kio object of whatever version the client speaks) and answers
the response's fields by name; it is a coroutine only where it has to wait.
"""
