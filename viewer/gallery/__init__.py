"""A folder of scenes in the browser."""
