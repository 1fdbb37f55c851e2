"""The hinge: how text and picture come to see each other."""
