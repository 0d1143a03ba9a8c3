"""What the daemon tells about itself: logs, metrics, statistics, decisions."""
