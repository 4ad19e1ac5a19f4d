"""What can be measured of a network on a machine, and what may be said of the figures.

Owns: latencies, percentiles, operators, limits of the machine. Does not own: an order of measuring (bench).
"""
