"""Presets: YAML values only; unknown keys are errors."""
