"""Files read and written: whole or not at all, strictly, and never over what is somebody else's.

Owns: reading once, atomic folders and manifests, JSON, CSV, where a command may write. Does not own: what any file means.
"""
