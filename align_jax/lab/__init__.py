"""The lab: turns a config into runs."""
