"""What a training step needs on chips that are not here: the compiler is asked, the rest is arithmetic.

Plans run nothing on any device; they compile the real step and read what the compiler made of it.
"""
