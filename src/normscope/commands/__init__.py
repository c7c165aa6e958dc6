"""One file per command: its options and what runs it. The only room that may import every other."""
