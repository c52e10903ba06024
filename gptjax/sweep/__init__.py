"""Many runs of one experiment: what they differ in, how they are started, what they say together."""
