"""Callbacks for other people's training loops. Each needs its own library."""
