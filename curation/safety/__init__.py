"""Detectors of faces and unsafe content behind one interface, and the blur of what they find."""
