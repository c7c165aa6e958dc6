"""The report: one HTML file with everything that studies, recordings and checks hold."""
