"""Training one network: the loop, its schedule, its arithmetic, and the state to resume from."""
