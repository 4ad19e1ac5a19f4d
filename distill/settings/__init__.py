"""What a user may set: a frozen dataclass a group, and a command's settings as the groups that it inherits.

Owns: names, defaults, ranges and contradictions of settings. Does not own: reading them (runtimes/commands/flags.py), what a setting does.
Below the commands no function takes a command's settings: it takes the group that is its own, or plain values.
"""
