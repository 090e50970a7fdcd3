"""Measurements behind every claim of speed: paired in one run, median and spread, the command beside the number."""
