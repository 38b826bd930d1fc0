"""Bridges to other projects' formats; imported by nobody inside but the command line."""
