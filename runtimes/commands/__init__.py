"""How every command reads what was typed, and what it prints about itself.

Owns: settings as flags, --config, usage, help. Does not own: any command's settings.
"""
