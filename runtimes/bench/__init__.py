"""rd-bench: artifacts side by side on one machine. A device may leave this wing out.

Owns: turns, processes, gates, reports, soak. Does not own: what a figure is (measure).
"""
