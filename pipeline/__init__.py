"""What is run: configuration, plan, execution on Ray, command line, report, and the demo."""
