"""What a training can learn, one objective a file."""
