"""Every command of `esper`: its arguments, options and help.

The work is in a module beside this folder, imported when its command is called, so that a mistake in a name is answered
at once.
"""
