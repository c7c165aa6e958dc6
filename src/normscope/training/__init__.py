"""Training one network: the loop, its schedule, its arithmetic, and the state from which it goes on."""
