"""Studies that anyone can repeat, each a module run by its own command; the wheel does not hold them.

Owns: what is tried, what is stored of it (results/), the pages that tell it. Does not own: what they try, the three packages below.
"""
