"""One module a command, imported when that command is called.

Each has `register(app, name)`, which adds the command to a Typer app.
"""
