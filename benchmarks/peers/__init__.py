"""What we are compared with, written as its own users would write it."""
