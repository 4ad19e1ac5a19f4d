"""The door: a finished student out of the workshop, onto the ground floor."""
