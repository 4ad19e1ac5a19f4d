"""What a run leaves for people: the page, pictures, the card, the folder.

Owns: writing a result. Does not own: its figures (evaluation).
"""
