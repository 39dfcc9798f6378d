"""What a run reports of itself: metrics, events, health, profiles, signals."""
