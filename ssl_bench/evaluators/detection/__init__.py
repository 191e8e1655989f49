"""Object detection with the backbone as the body."""
