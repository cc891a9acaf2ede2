"""What SQL says before it is run: whether it may run, and what it mentions."""
