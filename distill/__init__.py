"""The workshop: images and a foundation model in, a student out."""
