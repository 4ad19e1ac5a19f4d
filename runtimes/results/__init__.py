"""What one file was answered, as others read it: a trace (JSON) and a DICOM report.

Owns: what both hold, where they may be written, reading them back. Does not own: answering (session.py), reading images.
"""
