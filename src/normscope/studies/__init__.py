"""Studies: grids of runs, the directories they live in, and how they are executed."""
