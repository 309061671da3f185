"""The benchmark harness: command line, plan, cells, records and tables."""
