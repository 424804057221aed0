"""What Gramine does around the memory calls of a program."""
