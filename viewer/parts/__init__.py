"""The parts of the panel, each with its controls and what it shows in the scene."""
