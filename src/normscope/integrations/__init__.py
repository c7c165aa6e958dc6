"""Ready-made callbacks for other people's training loops. Each needs its library, which is not installed with ours."""
