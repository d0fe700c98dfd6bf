"""Many runs side by side: experiments, which vary one thing, and sweeps, which search."""
